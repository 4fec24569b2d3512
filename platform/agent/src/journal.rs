//! The journal of one instance: which steps of its life were begun and done, readable after a kill at any moment.
//!
//! One record is one line, `CRC-32 in 8 hexadecimal digits, a space, JSON, a newline`, written with one `write` and one
//! `fsync`. A line that is torn or does not match its sum ends the journal: it and whatever follows is cut off when the
//! journal is opened, as if it had never been written. A whole line that is not understood, such as a newer agent's, is an
//! error: forgetting it could start a second microVM.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddrV4;
use std::path::Path;

use holm_guest_control::BootMark;
use holm_model::report::{End, EndCause};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::world::{Attachment, Image, MachineRecord};

/// Longest journal that is read, in bytes. A life writes about ten lines; forwards add one each.
const MAX_JOURNAL: u64 = 4 << 20;

/// A step of an instance's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// The image lies on this host.
    ImageReady {
        /// What the guest boots from.
        image: Image,
    },
    /// The host's side of the network stands.
    NetworkAttached {
        /// What was made.
        network: Attachment,
    },
    /// A microVM is about to be started. Without a `Launched` after it, one may or may not run.
    Launching,
    /// The microVM runs.
    Launched {
        /// How to find it again.
        machine: MachineRecord,
    },
    /// A port was forwarded into the running microVM.
    Forwarded {
        /// The port inside the guest.
        port: u16,
        /// Where the host listens for it.
        listen: SocketAddrV4,
    },
    /// The guest answered for the first time: its kernel and its PID 1 are up.
    Greeted {
        /// When the guest was where, by its own clock.
        boot: Vec<BootMark>,
    },
    /// The guest has its configuration.
    Configured,
    /// The app's process was started.
    Started,
    /// The app was found healthy for the first time.
    Healthy,
    /// Holm began to stop it.
    Stopping,
    /// Why it ends is known; the microVM may still be there.
    Ending {
        /// Why.
        cause: EndCause,
    },
    /// The microVM is gone for good.
    Ended {
        /// How.
        end: End,
    },
    /// Everything but the folder was taken away.
    Cleaned,
}

#[derive(Serialize, Deserialize)]
struct Record {
    at: Timestamp,
    step: Step,
}

/// What a journal says about an instance: the fold of its steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Past {
    /// The image, when it was ready.
    pub(crate) image: Option<Image>,
    /// The network, when it was attached, with the forwards added since.
    pub(crate) network: Option<Attachment>,
    /// Whether a microVM may have been started.
    pub(crate) launching: bool,
    /// The microVM that was started.
    pub(crate) machine: Option<MachineRecord>,
    /// When the app was started.
    pub(crate) started: Option<Timestamp>,
    /// Whether the app was healthy once.
    pub(crate) healthy: bool,
    /// Whether Holm began to stop it.
    pub(crate) stopping: bool,
    /// Why it is about to end.
    pub(crate) ending: Option<EndCause>,
    /// How it ended.
    pub(crate) ended: Option<End>,
    /// Whether nothing but the folder is left.
    pub(crate) cleaned: bool,
}

impl Past {
    fn apply(&mut self, at: Timestamp, step: &Step) {
        match step {
            Step::ImageReady { image } => self.image = Some(image.clone()),
            Step::NetworkAttached { network } => self.network = Some(network.clone()),
            Step::Launching => {
                self.launching = true;
                self.machine = None;
            }
            Step::Launched { machine } => self.machine = Some(machine.clone()),
            Step::Forwarded { port, listen } => {
                if let Some(Attachment::User { forwards }) = &mut self.network {
                    forwards.insert(*port, *listen);
                }
            }
            Step::Greeted { .. } | Step::Configured => {}
            Step::Started => self.started = Some(at),
            Step::Healthy => self.healthy = true,
            Step::Stopping => self.stopping = true,
            Step::Ending { cause } => self.ending = Some(cause.clone()),
            Step::Ended { end } => self.ended = Some(end.clone()),
            Step::Cleaned => self.cleaned = true,
        }
    }
}

/// The open journal of one instance, and what it says.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    end: u64,
    past: Past,
}

impl Journal {
    /// Opens the journal at `path`, making it when it is missing and cutting off a torn end.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(MAX_JOURNAL).read_to_end(&mut bytes)?;
        let (past, good) = replay(&bytes)?;
        let end = good as u64;
        if file.metadata()?.len() != end {
            file.set_len(end)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file, end, past })
    }

    /// What the steps so far say.
    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    /// Writes a step and returns when it is on disk. After a failure the journal is as it was before.
    ///
    /// Blocks for one `fsync`: a step must not be half done when the task that takes it is dropped.
    pub(crate) fn append(&mut self, at: Timestamp, step: Step) -> io::Result<()> {
        let line = encode(at, &step);
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            return Err(error);
        }
        self.end += line.len() as u64;
        self.past.apply(at, &step);
        Ok(())
    }
}

fn encode(at: Timestamp, step: &Step) -> Vec<u8> {
    let json =
        serde_json::to_string(&Record { at, step: step.clone() }).expect("plain data with string keys serialises");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

/// Folds the good lines at the start of `bytes`; also says how many bytes they take.
pub(crate) fn replay(bytes: &[u8]) -> io::Result<(Past, usize)> {
    let mut past = Past::default();
    let mut good = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(json) = checked(line) else { break };
        let record: Record = serde_json::from_slice(json)?;
        past.apply(record.at, &record.step);
        good += line.len();
    }
    Ok((past, good))
}

/// The JSON of a line that is whole and matches its sum.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, json) = line.strip_suffix(b"\n")?.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == crc32fast::hash(json)).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life() -> Vec<Step> {
        let machine = MachineRecord { pid: 7, start_time: u64::MAX, run_dir: "/run".into() };
        let listen = "127.0.0.1:4000".parse().unwrap();
        let env = [("PATH".to_owned(), "/bin".to_owned())].into();
        vec![
            Step::ImageReady { image: Image { root: "/image".into(), env, ..Image::default() } },
            Step::NetworkAttached { network: Attachment::User { forwards: [(80, listen)].into() } },
            Step::Launching,
            Step::Launched { machine },
            Step::Forwarded { port: 81, listen },
            Step::Greeted { boot: vec![BootMark { step: "init".into(), since_boot_us: 7 }] },
            Step::Configured,
            Step::Started,
            Step::Healthy,
            Step::Stopping,
            Step::Ending { cause: EndCause::Lost { why: "line\nbreak \u{2028}".into() } },
            Step::Ended {
                end: End { cause: EndCause::Stopped, at: Timestamp::UNIX_EPOCH, last_log: vec!["x".into()] },
            },
            Step::Cleaned,
        ]
    }

    fn past_of(steps: &[Step]) -> Past {
        let mut past = Past::default();
        for step in steps {
            past.apply(Timestamp::UNIX_EPOCH, step);
        }
        past
    }

    #[test]
    fn a_journal_torn_at_any_byte_reads_as_its_whole_lines_and_can_be_continued() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<Vec<u8>> = life().iter().map(|s| encode(Timestamp::UNIX_EPOCH, s)).collect();
        let whole = lines.concat();
        for cut in 0..=whole.len() {
            let path = dir.path().join("journal");
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut kept = 0;
            let mut size = 0;
            while kept < lines.len() && size + lines[kept].len() <= cut {
                size += lines[kept].len();
                kept += 1;
            }
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(journal.past(), &past_of(&life()[..kept]), "cut at {cut}");
            journal.append(Timestamp::UNIX_EPOCH, Step::Cleaned).unwrap();
            let mut steps = life()[..kept].to_vec();
            steps.push(Step::Cleaned);
            assert_eq!(Journal::open(&path).unwrap().past(), &past_of(&steps), "continued after a cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_ends_the_journal_there() {
        let lines: Vec<Vec<u8>> = life().iter().map(|s| encode(Timestamp::UNIX_EPOCH, s)).collect();
        let whole = lines.concat();
        let starts: Vec<usize> = lines
            .iter()
            .scan(0, |at, l| {
                let s = *at;
                *at += l.len();
                Some(s)
            })
            .collect();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let line = starts.iter().rposition(|s| *s <= at).unwrap();
            assert_eq!(replay(&bytes).unwrap().1, starts[line], "byte {at}");
        }
    }

    #[test]
    fn a_whole_line_that_is_not_understood_is_an_error() {
        let json = r#"{"at":"2026-01-01T00:00:00Z","step":"teleported"}"#;
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        assert!(replay(line.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(replay(&bytes).is_ok_and(|(_, good)| good <= bytes.len()));
        }
    }
}
