//! What a program is given: arguments, environment, capabilities.

use alloc::vec::Vec;

use holm_abi::{CapInfo, Handle, ObjectType};

use crate::object::{Object, Owned};
use crate::sys;

/// The environment variable that names the initial capabilities in their order, separated by commas.
pub const CAPS: &str = "HOLM_CAPS";

/// Slots of a new unit before the initial capabilities: its own unit and its first thread.
pub const OWN_SLOTS: u16 = 2;

/// The strings in bytes where each ends with a zero byte.
pub(crate) fn strings(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let parts = (!bytes.is_empty()).then(|| bytes.split(|byte| *byte == 0));
    parts.into_iter().flatten().map(|part| core::str::from_utf8(part).unwrap_or(""))
}

/// The arguments, the program's own name first.
pub fn arguments() -> impl Iterator<Item = &'static str> {
    let info = sys::startup_info();
    strings(sys::startup_bytes(info.argv, info.argv_bytes))
}

/// The environment as it was given: `NAME=value` each.
pub fn environment() -> impl Iterator<Item = &'static str> {
    let info = sys::startup_info();
    strings(sys::startup_bytes(info.envp, info.envp_bytes))
}

/// The value of an environment variable.
#[must_use]
pub fn variable(name: &str) -> Option<&'static str> {
    environment().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The id of this unit.
#[must_use]
pub fn unit_id() -> u64 {
    sys::startup_info().unit_id
}

/// Processors of the machine.
#[must_use]
pub fn cpu_count() -> u32 {
    sys::startup_info().cpu_count
}

/// This unit's own handle. It is not closed: others use it as well.
#[must_use]
pub const fn own_unit() -> Handle {
    Handle::initial(0)
}

/// The first thread's handle. It is not closed: others use it as well.
#[must_use]
pub const fn first_thread() -> Handle {
    Handle::initial(1)
}

/// The handles of the initial capabilities, in order.
pub fn initial() -> impl Iterator<Item = Handle> {
    let count = u16::try_from(sys::startup_info().cap_count).unwrap_or(0);
    (0..count).map(|index| Handle::initial(OWN_SLOTS + index))
}

/// The handle of an initial capability by its name (see [`CAPS`]).
#[must_use]
pub fn initial_named(name: &str) -> Option<Handle> {
    let index = variable(CAPS)?.split(',').position(|other| other == name)?;
    Some(Handle::initial(OWN_SLOTS.checked_add(u16::try_from(index).ok()?)?))
}

/// The handle of the first initial capability of a type.
#[must_use]
pub fn initial_of(object_type: ObjectType) -> Option<Handle> {
    initial().find(|handle| {
        let mut info = CapInfo::new();
        sys::cap_get_info(*handle, &mut info).is_ok() && info.object_type == object_type
    })
}

/// Takes an initial capability over by its type. To be called once for each: the value closes the handle when it is dropped.
#[must_use]
pub fn take<T: Object>(object_type: ObjectType) -> Option<T> {
    initial_of(object_type).map(|handle| T::from_owned(Owned::new(handle)))
}

/// Takes an initial capability over by its name; see [`take`].
#[must_use]
pub fn take_named<T: Object>(name: &str) -> Option<T> {
    initial_named(name).map(|handle| T::from_owned(Owned::new(handle)))
}

/// Strings as the kernel takes them: each ended by a zero byte. A zero byte within a string ends it there.
#[must_use]
pub fn packed<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend(text.bytes().take_while(|byte| *byte != 0));
        bytes.push(0);
    }
    bytes
}

/// A name padded with zero bytes; what is too long is cut.
#[must_use]
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

/// The text in bytes padded with zero bytes; empty when it is no UTF-8.
#[must_use]
pub fn unpadded(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.get(..end).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_strings_come_back() {
        for texts in [&[][..], &["a"], &["prog", "", "last"], &["", ""]] {
            let bytes = packed(texts.iter().copied());
            let back: Vec<_> = strings(&bytes).collect();
            assert_eq!(back, texts.to_vec());
        }
    }

    #[test]
    fn names_are_cut_and_padded() {
        assert_eq!(unpadded(&padded::<4>("ab")), "ab");
        assert_eq!(unpadded(&padded::<4>("abcdef")), "abcd");
        assert_eq!(unpadded(&padded::<0>("x")), "");
    }
}
