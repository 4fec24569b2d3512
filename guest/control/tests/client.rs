//! The host's client against a guest played by the test, over a pipe in memory.

#![cfg(feature = "host")]
#![allow(clippy::unwrap_used, reason = "a test's own pipe and messages")]

mod fake_guest;

use fake_guest::{FakeGuest, Sent, connect, greeted, hello_ack, pipe};
use holm_guest_control::host::{ExecSession, GuestConnection, HostError, LogItem, OutputChunk};
use holm_guest_control::*;
use tokio::io::AsyncWriteExt as _;

fn config(program: &str) -> Config {
    let json = format!(r#"{{"instance": "i-1", "hostname": "web-1", "command": ["{program}"]}}"#);
    serde_json::from_str(&json).unwrap()
}

async fn exec(connection: &GuestConnection, guest: &mut FakeGuest) -> (ExecSession, u32) {
    let request = ExecRequest { command: vec!["cat".into()], ..ExecRequest::default() };
    let (session, (stream, taken)) = tokio::join!(connection.exec(request.clone()), guest.take_exec());
    assert_eq!(taken, request);
    (session.unwrap(), stream)
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_still_boots_is_greeted_until_it_is_up() {
    let (host, mut guest) = pipe();
    let booting = async {
        assert!(matches!(guest.message().await, HostMessage::Hello { .. }));
        let first = guest.session;
        guest.greet().await;
        assert_eq!(guest.session, first, "a repeated greeting is the same session");
    };
    let (connection, ()) = tokio::join!(connect(host), booting);
    assert_eq!(connection.unwrap().hello(), &hello_ack());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_says_nothing_is_told_apart_from_one_that_is_gone() {
    let (host, guest) = pipe();
    assert!(matches!(connect(host).await, Err(HostError::NoGreeting(_))));
    drop(guest);
    let (host, guest) = pipe();
    drop(guest);
    assert!(matches!(connect(host).await, Err(HostError::Closed)));
}

#[tokio::test]
async fn a_guest_of_another_age_is_refused_with_both_versions() {
    let (host, mut guest) = pipe();
    let old = async {
        guest.message().await;
        guest.pipe.write_all(&[0]).await.unwrap();
        guest.tell(&GuestMessage::HelloRefused { protocol: 9, oldest: 7 }).await;
    };
    let (refused, ()) = tokio::join!(connect(host), old);
    assert!(matches!(refused, Err(HostError::Protocol { oldest: 7, newest: 9, .. })));
}

#[tokio::test]
async fn the_same_configuration_is_fine_again_and_another_one_refused() {
    let (connection, mut guest) = greeted().await;
    tokio::spawn(async move {
        let mut present = None;
        while let Some(Sent::Message(HostMessage::Configure { id, config })) = guest.next().await {
            let outcome = if present.get_or_insert_with(|| config.clone()) == &config {
                Outcome::Ok(ReplyValue::Done)
            } else {
                Outcome::Error(ErrorBody { code: ErrorCode::Refused, message: "another one".into() })
            };
            guest.reply(id, outcome).await;
        }
    });
    connection.configure(&config("/bin/a")).await.unwrap();
    connection.configure(&config("/bin/a")).await.unwrap();
    let refused = connection.configure(&config("/bin/b")).await.unwrap_err();
    assert!(matches!(refused, HostError::Guest(ErrorBody { code: ErrorCode::Refused, .. })), "{refused}");
    let wrong = connection.configure(&config("")).await.unwrap_err();
    assert!(matches!(wrong, HostError::Guest(ErrorBody { code: ErrorCode::Invalid, .. })), "{wrong}");
}

/// Answers a subscription from `ring` until it has said everything; then cuts the next frame in the middle.
async fn serve_logs(guest: &mut FakeGuest, ring: &LogRing, until: u64) {
    let HostMessage::LogsFrom { subscription, mut seq, .. } = guest.message().await else {
        panic!("a subscription was expected");
    };
    while seq < until {
        if let ReadLog::Record(record) = ring.read(seq) {
            guest.send(Kind::Log, subscription, &record.encode()).await;
        }
        seq += 1;
    }
    if let ReadLog::Record(record) = ring.read(seq) {
        let cut = guest.encoded(Kind::Log, subscription, &record.encode());
        guest.pipe.write_all(&cut[..cut.len() / 2]).await.unwrap();
    }
}

#[tokio::test]
async fn logs_go_on_where_they_stopped_after_a_cut_inside_frames_of_both_directions() {
    let mut ring = LogRing::new(1 << 20);
    for line in 0..20u8 {
        ring.push(LogStream::Stdout, 1, 2, &[line; 300]);
    }
    let mut kept: Vec<LogRecord> = Vec::new();
    for until in [7, 20] {
        let (mut host, mut guest) = pipe();
        // What a killed predecessor left in the pipe: the first half of its frame, and the second half of the guest's.
        let left = guest.encoded(Kind::Stdin, 1, b"half of this");
        host.write_all(&left[..20]).await.unwrap();
        guest.pipe.write_all(&left[20..]).await.unwrap();

        let (connection, ()) = tokio::join!(connect(host), guest.greet());
        let connection = connection.unwrap();
        let next = kept.last().map_or(0, |record| record.seq + 1);
        let serving = async {
            serve_logs(&mut guest, &ring, until).await;
            drop(guest);
        };
        let reading = async {
            let mut reader = connection.logs(next).await.unwrap();
            let mut seen = Vec::new();
            while let Some(item) = reader.recv().await {
                match item {
                    LogItem::Record(record) => seen.push(record),
                    LogItem::Dropped { .. } => panic!("nothing was lost"),
                }
            }
            seen
        };
        let (seen, ()) = tokio::join!(reading, serving);
        kept.extend(seen);
    }
    let numbers: Vec<u64> = kept.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert!(kept.iter().all(|record| record.bytes == [record.seq as u8; 300]));
}

#[tokio::test]
async fn lost_logs_are_told_with_their_number() {
    let (connection, mut guest) = greeted().await;
    let telling = async {
        let HostMessage::LogsFrom { subscription, .. } = guest.message().await else { panic!("no subscription") };
        guest.tell(&GuestMessage::LogsDropped { subscription: subscription + 1, count: 1, next: 1 }).await;
        guest.tell(&GuestMessage::LogsDropped { subscription, count: 5, next: 5 }).await;
    };
    let (reader, ()) = tokio::join!(connection.logs(0), telling);
    let only_its_own = reader.unwrap().recv().await;
    assert_eq!(only_its_own, Some(LogItem::Dropped { count: 5, next: 5 }));
}

#[tokio::test]
async fn a_command_gets_its_input_and_gives_its_output_and_status() {
    let (connection, mut guest) = greeted().await;
    let (mut session, stream) = exec(&connection, &mut guest).await;
    assert_eq!(session.pid, 9);
    session.stdin.write_all(b"question").await.unwrap();
    session.stdin.eof().await.unwrap();
    session.control.resize(3, 4).await.unwrap();
    assert_eq!(guest.next().await, Some(Sent::Stdin(stream, b"question".to_vec())));
    assert_eq!(guest.message().await, HostMessage::ExecEof { stream });
    assert_eq!(guest.message().await, HostMessage::ExecResize { stream, rows: 3, cols: 4 });

    guest.send(Kind::Stdout, stream, b"answer").await;
    guest.send(Kind::Stderr, stream + 1, b"of another command").await;
    guest.send(Kind::Stderr, stream, b"remark").await;
    guest.tell(&GuestMessage::ExecExit { stream, status: ExitStatus::Code(3) }).await;
    let mut output = Vec::new();
    while let Some(chunk) = session.output.recv().await {
        output.push(chunk);
    }
    assert_eq!(output, [OutputChunk::Stdout(b"answer".to_vec()), OutputChunk::Stderr(b"remark".to_vec())]);
    assert_eq!(session.control.wait().await.unwrap(), ExitStatus::Code(3));
    assert!(matches!(session.stdin.write_all(b"late").await, Err(HostError::Closed)));
}

#[tokio::test]
async fn a_command_that_cannot_run_says_why() {
    let (connection, mut guest) = greeted().await;
    let body = ErrorBody { code: ErrorCode::CommandNotFound, message: "`nope` was not found".into() };
    let refusing = async {
        let HostMessage::Exec { id, .. } = guest.message().await else { panic!("an exec was expected") };
        guest.reply(id, Outcome::Error(body.clone())).await;
    };
    let (refused, ()) = tokio::join!(connection.exec(ExecRequest::default()), refusing);
    assert!(matches!(refused, Err(HostError::Guest(told)) if told == body));
}

#[tokio::test]
async fn a_command_nobody_holds_any_more_is_detached() {
    let (connection, mut guest) = greeted().await;
    let (session, stream) = exec(&connection, &mut guest).await;
    drop(session);
    assert_eq!(guest.message().await, HostMessage::ExecDetach { stream });
}

#[tokio::test]
async fn everyone_who_waits_learns_of_the_end_of_the_connection() {
    let (connection, mut guest) = greeted().await;
    let (mut session, _) = exec(&connection, &mut guest).await;
    let mut logs = connection.logs(0).await.unwrap();
    let ending = async {
        while !matches!(guest.message().await, HostMessage::Metrics { .. }) {}
        drop(guest);
    };
    let (metrics, ()) = tokio::join!(connection.metrics(), ending);
    assert!(matches!(metrics, Err(HostError::Closed)));
    assert!(matches!(session.control.wait().await, Err(HostError::Closed)));
    assert_eq!((session.output.recv().await, logs.recv().await), (None, None));
    connection.closed().await;
    assert!(matches!(connection.start().await, Err(HostError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_names_itself() {
    let (connection, _guest) = greeted().await;
    assert!(matches!(connection.metrics().await, Err(HostError::NoAnswer { request: "metrics", .. })));
}

#[tokio::test(start_paused = true)]
async fn input_stays_within_the_window_until_the_command_has_taken_some() {
    let (connection, mut guest) = greeted().await;
    let (mut session, stream) = exec(&connection, &mut guest).await;
    let bytes: Vec<u8> = (0..EXEC_WINDOW * 2).map(|n| n as u8).collect();
    let expected = bytes.clone();
    let writing = tokio::spawn(async move { session.stdin.write_all(&bytes).await.map(|()| session) });
    let mut taken = Vec::new();
    while taken.len() < expected.len() {
        let mut cost = 0;
        for sent in guest.until_quiet().await {
            let Sent::Stdin(from, part) = sent else { panic!("only input was expected, not {sent:?}") };
            assert_eq!(from, stream);
            cost += frame_cost(part.len());
            taken.extend(part);
        }
        assert!((1..=EXEC_WINDOW).contains(&cost), "{cost} bytes under way");
        guest.tell(&GuestMessage::ExecCredit { stream, credit: cost }).await;
    }
    assert!(taken == expected, "the input arrives whole and in order");
    writing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn credit_for_output_comes_when_it_is_taken_and_not_before() {
    let (connection, mut guest) = greeted().await;
    let (mut session, stream) = exec(&connection, &mut guest).await;
    let chunk = [7; 8192];
    for _ in 0..EXEC_WINDOW / 8192 {
        guest.send(Kind::Stdout, stream, &chunk).await;
    }
    assert_eq!(guest.until_quiet().await, [], "nothing was taken yet");
    for _ in 0..EXEC_WINDOW / 8192 {
        assert_eq!(session.output.recv().await, Some(OutputChunk::Stdout(chunk.to_vec())));
    }
    let mut returned = 0;
    for sent in guest.until_quiet().await {
        let Sent::Message(HostMessage::ExecCredit { credit, .. }) = sent else { panic!("no credit but {sent:?}") };
        returned += credit;
    }
    assert!((EXEC_WINDOW / 2..=EXEC_WINDOW).contains(&returned), "{returned} bytes returned");
}

#[tokio::test(start_paused = true)]
async fn a_log_reader_that_rests_gives_no_credit() {
    let (connection, mut guest) = greeted().await;
    let mut reader = connection.logs(0).await.unwrap();
    let HostMessage::LogsFrom { subscription, window, .. } = guest.message().await else { panic!("no subscription") };
    let record = LogRecord { seq: 0, stream: LogStream::Stderr, since_boot_ns: 0, at_unix_ns: 0, bytes: vec![] };
    // The smallest records: as many frames as a window can ever hold.
    let frames = window / frame_cost(record.wire_len());
    for seq in 0..u64::from(frames) {
        guest.send(Kind::Log, subscription, &LogRecord { seq, ..record.clone() }.encode()).await;
    }
    assert_eq!(guest.until_quiet().await, [], "nothing was taken yet");
    for seq in 0..u64::from(frames) {
        assert_eq!(reader.recv().await, Some(LogItem::Record(LogRecord { seq, ..record.clone() })));
    }
    let acks = guest.until_quiet().await;
    assert_eq!(acks.len(), 3, "a quarter of the window at a time, the last still owed: {acks:?}");
    drop(reader);
    assert_eq!(guest.message().await, HostMessage::LogsEnd);
}
