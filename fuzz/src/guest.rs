//! What a guest and a host say to each other.

use holm_guest_control::{Config, Decoder, Frame, Kind, MAX_PAYLOAD, decode_arbitrary, encode_frame};

/// Frames come out as they went in however the pipe cuts them; their messages are read or dropped; a configuration that
/// passes its checks stays the same when it is sent on.
pub(crate) fn control_frames(bytes: &[u8]) {
    decode_arbitrary(bytes);
    if let Ok(config) = serde_json::from_slice::<Config>(bytes)
        && config.check().is_ok()
    {
        let sent = serde_json::to_vec(&config).expect("a configuration is JSON");
        assert_eq!(serde_json::from_slice::<Config>(&sent).expect("what was sent is read"), config);
    }
    // The same bytes as frames with right checksums: a length, a kind, then the payload.
    let mut sent = Vec::new();
    let mut wire = vec![0];
    let mut rest = bytes;
    while let [length, kind, more @ ..] = rest {
        let (payload, after) = more.split_at(usize::from(*length).min(more.len()).min(MAX_PAYLOAD));
        let kinds = [Kind::Message, Kind::Log, Kind::Stdin, Kind::Stdout, Kind::Stderr];
        let frame = Frame {
            kind: kinds[usize::from(kind & 7) % kinds.len()],
            more: kind & 8 != 0,
            session: u64::from(kind >> 6),
            stream: u32::from(kind >> 4 & 3),
            payload: payload.to_vec(),
        };
        encode_frame(&frame, &mut wire).expect("the payload is short enough");
        sent.push(frame);
        rest = after;
    }
    decode_arbitrary(&wire);
    for piece in [1, 64] {
        let (mut decoder, mut found) = (Decoder::new(), Vec::new());
        wire.chunks(piece).for_each(|piece| decoder.feed(piece, |frame| found.push(frame)));
        assert_eq!(found, sent, "cut into pieces of {piece}");
    }
}
