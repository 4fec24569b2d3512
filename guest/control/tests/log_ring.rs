//! The log ring loses only its oldest records, and says how many.

use holm_guest_control::{LogRecord, LogRing, LogStream, ReadLog};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_reader_sees_every_record_or_a_count_of_the_lost(
        steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..200),
        limit in 0usize..4000,
    ) {
        let mut ring = LogRing::new(limit);
        let (mut next, mut seen, mut lost) = (0u64, 0u64, 0u64);
        let mut read = |ring: &LogRing| loop {
            match ring.read(next) {
                ReadLog::Record(record) => { assert_eq!(record.seq, next); next += 1; seen += 1; }
                ReadLog::Dropped { oldest } => { assert!(oldest > next); lost += oldest - next; next = oldest; }
                ReadLog::End => { assert_eq!(next, ring.next_seq()); break (seen, lost); }
            }
        };
        for (bytes, reads) in &steps {
            ring.push(LogStream::Stdout, 1, 2, bytes);
            if *reads { read(&ring); }
        }
        let (seen, lost) = read(&ring);
        prop_assert_eq!(seen + lost, steps.iter().filter(|(b, _)| !b.is_empty()).count() as u64);
    }

    #[test]
    fn records_survive_the_wire(seq: u64, since_boot_ns: u64, at_unix_ns: u64, err: bool, bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let stream = if err { LogStream::Stderr } else { LogStream::Stdout };
        let record = LogRecord { seq, stream, since_boot_ns, at_unix_ns, bytes };
        prop_assert_eq!(LogRecord::decode(&record.encode()), Some(record));
    }
}

#[test]
fn a_read_beyond_the_newest_record_is_the_end() {
    assert_eq!(LogRing::new(10).read(u64::MAX), ReadLog::End);
}
