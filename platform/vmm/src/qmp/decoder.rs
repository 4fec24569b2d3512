//! Cutting the monitor's byte stream into messages: one JSON object per line, of bounded length.

use serde_json::{Map, Value};

use super::QmpError;

/// Longest line accepted, in bytes. The largest answer used, 64 KiB of console in base64, has 88 KiB.
pub const MAX_LINE: usize = 1 << 20;

/// One message from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first one: capabilities are to be negotiated.
    Greeting,
    /// The answer to a request.
    Return {
        /// The request's number.
        id: Option<u64>,
        /// What it returned.
        value: Value,
    },
    /// The refusal of a request.
    Error {
        /// The request's number; absent when QEMU could not read the request.
        id: Option<u64>,
        /// QEMU's error class, such as `GenericError`.
        class: String,
        /// For a person.
        description: String,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened in the VM, such as `SHUTDOWN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, in capitals.
    pub name: String,
    /// Its details.
    pub data: Value,
}

/// Collects bytes and gives out messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    searched: usize,
}

impl Decoder {
    /// Takes in bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed. After an error the stream is not to be used on.
    ///
    /// # Errors
    /// [`QmpError::LineTooLong`] or [`QmpError::Malformed`].
    pub fn next_message(&mut self) -> Result<Option<Message>, QmpError> {
        loop {
            let Some(end) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') else {
                self.searched = self.buffer.len();
                return if self.buffer.len() > MAX_LINE { Err(QmpError::LineTooLong) } else { Ok(None) };
            };
            let rest = self.buffer.split_off(self.searched + end + 1);
            let line = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            if line.len() > MAX_LINE {
                return Err(QmpError::LineTooLong);
            }
            if !line.trim_ascii().is_empty() {
                return parse(&line).map(Some);
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let malformed = |why: String| QmpError::Malformed(why);
    let mut object: Map<String, Value> = serde_json::from_slice(line).map_err(|error| malformed(error.to_string()))?;
    let id = object.get("id").and_then(Value::as_u64);
    if object.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    if let Some(value) = object.remove("return") {
        return Ok(Message::Return { id, value });
    }
    if let Some(Value::Object(mut error)) = object.remove("error") {
        let mut text = |key| match error.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        return Ok(Message::Error { id, class: text("class"), description: text("desc") });
    }
    if let Some(Value::String(name)) = object.remove("event") {
        return Ok(Message::Event(Event { name, data: object.remove("data").unwrap_or(Value::Null) }));
    }
    Err(malformed("neither greeting, return, error nor event".to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(chunks: &[&[u8]]) -> (Vec<Message>, bool) {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(_) => return (messages, false),
                }
            }
        }
        (messages, true)
    }

    #[test]
    fn each_kind_of_message_is_told_apart() {
        let text = concat!(
            "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n",
            "{\"return\": {\"status\": \"running\"}, \"id\": 7}\r\n",
            "{\"timestamp\": {}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true}}\r\n",
            "\r\n",
            "{\"id\": 8, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no x\"}}\r\n",
        );
        let (messages, good) = all(&[text.as_bytes()]);
        assert!(good);
        assert_eq!(
            messages,
            vec![
                Message::Greeting,
                Message::Return { id: Some(7), value: json!({"status": "running"}) },
                Message::Event(Event { name: "SHUTDOWN".into(), data: json!({"guest": true}) }),
                Message::Error { id: Some(8), class: "CommandNotFound".into(), description: "no x".into() },
            ]
        );
    }

    #[test]
    fn foreign_lines_are_malformed() {
        for line in ["x\n", "[]\n", "{}\n", "{\"event\": 5}\n", "{\"error\": 5}\n", "\u{0}\n"] {
            assert!(!all(&[line.as_bytes()]).1, "{line:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut decoder = Decoder::default();
        decoder.feed(&vec![b'a'; MAX_LINE]);
        assert!(matches!(decoder.next_message(), Ok(None)));
        decoder.feed(b"a");
        assert!(matches!(decoder.next_message(), Err(QmpError::LineTooLong)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            all(&chunks);
        }

        #[test]
        fn messages_do_not_depend_on_how_the_bytes_arrive(
            values in prop::collection::vec((any::<u64>(), "\\PC{0,20}"), 1..8),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let text: Vec<u8> = values
                .iter()
                .flat_map(|(id, text)| format!("{}\r\n", json!({"return": text, "id": id})).into_bytes())
                .collect();
            let mut pieces = Vec::new();
            let (mut rest, mut cut) = (text.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let expected: Vec<Message> =
                values.iter().map(|(id, text)| Message::Return { id: Some(*id), value: json!(text) }).collect();
            prop_assert_eq!(all(&pieces), (expected, true));
        }
    }
}
