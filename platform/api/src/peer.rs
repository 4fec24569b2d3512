//! Who is at the other end of the socket: the kernel's word, turned into the name that events carry.

use std::fs;

use tokio::net::UnixStream;

/// The actor for the process at the other end: `user:anna`, or `user:1000` when the user has no name.
pub(crate) fn actor_of(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => actor(peer.uid(), &fs::read_to_string("/etc/passwd").unwrap_or_default()),
        Err(_) => "user:unknown".to_owned(),
    }
}

fn actor(uid: u32, passwd: &str) -> String {
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        let plain = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_graphic());
        (id.parse() == Ok(uid) && plain).then_some(name)
    });
    named.map_or_else(|| format!("user:{uid}"), |name| format!("user:{name}"))
}

#[cfg(test)]
mod tests {
    use super::actor;

    #[test]
    fn an_actor_has_the_users_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nanna:x:1000:1000::/home/anna:/bin/sh\n";
        assert_eq!(actor(0, passwd), "user:root");
        assert_eq!(actor(1000, passwd), "user:anna");
        assert_eq!(actor(1001, passwd), "user:1001");
        assert_eq!(actor(5, "a b:x:5:"), "user:5");
    }
}
