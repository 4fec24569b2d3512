//! The kernel's last words.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use holm_kernel_core::machine::Halt;

use crate::serial::say;
use crate::{cpu, power};

/// Somebody has panicked: what comes after that is not worth telling.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Says what is wrong and ends. It takes no lock and allocates nothing.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if PANICKED.swap(true, Ordering::SeqCst) {
        cpu::stop();
    }
    match info.location() {
        Some(place) => say!("\nholm: kernel panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => say!("\nholm: kernel panic: {}", info.message()),
    }
    power::stop(Halt::PowerOff(power::PANICKED))
}

/// The prebuilt libraries were made for unwinding, which this kernel never does; the linker wants the names.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    cpu::stop()
}

/// See above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    cpu::stop()
}
