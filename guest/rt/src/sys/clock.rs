//! The clock that is read without entering the kernel.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use holm_abi::TimePage;

use super::entry::{startup_info, ticks};

/// The address of the time page; 0 when there is none, 1 while nobody has asked.
static PAGE: AtomicU64 = AtomicU64::new(1);

/// The monotonic clock by the time page; `None` when this machine has none.
pub(crate) fn monotonic() -> Option<u64> {
    let page = match PAGE.load(Ordering::Relaxed) {
        0 => return None,
        1 => {
            let page = startup_info().time_page;
            PAGE.store(page, Ordering::Relaxed);
            if page == 0 {
                return None;
            }
            page
        }
        page => page,
    };
    let page = page as *const TimePage;
    loop {
        // SAFETY: the kernel mapped the page here for the life of the unit; it changes it meanwhile, so every field is read
        // by a volatile load of its own and counts only when the sequence stayed the same.
        let (sequence, base_tsc, base_time, multiplier, shift) = unsafe {
            (
                (&raw const (*page).sequence).read_volatile(),
                (&raw const (*page).base_tsc).read_volatile(),
                (&raw const (*page).base_time).read_volatile(),
                (&raw const (*page).multiplier).read_volatile(),
                (&raw const (*page).shift).read_volatile(),
            )
        };
        let elapsed = (u128::from(ticks().wrapping_sub(base_tsc)) * u128::from(multiplier)) >> (shift & 127);
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let after = unsafe { (&raw const (*page).sequence).read_volatile() };
        if sequence == after && sequence & 1 == 0 {
            return Some(base_time.wrapping_add(elapsed as u64));
        }
        core::hint::spin_loop();
    }
}
