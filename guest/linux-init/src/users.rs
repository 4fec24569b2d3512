//! Who the app runs as: the image's `User` looked up in the image's own passwd and group files.

/// User, groups and home folder of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Home folder; `/` when the user has no passwd entry.
    pub(crate) home: String,
}

/// Why a user cannot be found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("user `{0}` is not in the image's /etc/passwd")]
    NoUser(String),
    #[error("group `{0}` is not in the image's /etc/group")]
    NoGroup(String),
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("/");
        Some(PasswdEntry { name, uid, gid, home })
    })
}

/// Name, id and members of each group.
fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// Resolves `""` (root), `name`, `uid`, `uid:gid`, `name:group` and their mixtures, as OCI runtimes do.
///
/// A number needs no passwd entry; its group is then 0. Supplementary groups are those that list the user, and
/// none when a group is named.
pub(crate) fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd_entries(passwd).find(|e| e.name == user || number == Some(e.uid));
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(number)) => number,
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let gid = match wanted_group {
        Some(wanted) => match group_entries(group).find(|(name, ..)| *name == wanted) {
            Some((_, gid, _)) => gid,
            None => wanted.parse().map_err(|_| UserError::NoGroup(wanted.to_owned()))?,
        },
        None => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups: Vec<u32> = match (&entry, wanted_group) {
        (Some(entry), None) => group_entries(group)
            .filter(|(_, _, members)| members.split(',').any(|m| m.trim() == entry.name))
            .map(|(_, gid, _)| gid)
            .filter(|g| *g != gid)
            .collect(),
        _ => Vec::new(),
    };
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map_or("/", |e| e.home);
    Ok(Identity { uid, gid, groups, home: if home.is_empty() { "/" } else { home }.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:web:/srv:/bin/false\n7:x:1007:8::/seven:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:web\nlogs:x:40:other, web\ntls:x:41:web,other\nbad:x:y:web\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, UserError> {
        Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn users_are_found_as_oci_runtimes_find_them() {
        for (user, expected) in [
            ("", identity(0, 0, &[], "/root")),
            ("root", identity(0, 0, &[], "/root")),
            ("web", identity(33, 34, &[40, 41], "/srv")),
            ("33", identity(33, 34, &[40, 41], "/srv")),
            ("web:tls", identity(33, 41, &[], "/srv")),
            ("33:99", identity(33, 99, &[], "/srv")),
            ("5000", identity(5000, 0, &[], "/")),
            ("5000:web", identity(5000, 34, &[], "/")),
            (":logs", identity(0, 40, &[], "/root")),
            ("web:", identity(33, 34, &[40, 41], "/srv")),
            ("7", identity(1007, 8, &[], "/seven")),
            ("nobody", Err(UserError::NoUser("nobody".into()))),
            ("web:none", Err(UserError::NoGroup("none".into()))),
        ] {
            assert_eq!(resolve(user, PASSWD, GROUP), expected, "{user}");
        }
    }

    #[test]
    fn numbers_work_without_any_files() {
        assert_eq!(resolve("12:13", "", ""), identity(12, 13, &[], "/"));
    }
}
