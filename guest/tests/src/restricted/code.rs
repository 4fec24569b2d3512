//! The guests' programs: machine code that is copied into a guest's memory. It knows the calls of [`super::personality`].

/// Where a program is in this one.
#[repr(C)]
struct Span {
    begin: u64,
    end: u64,
}

/// A function that gives the bytes of a program. Lines may use any numeric label but 20 and 30.
macro_rules! guest {
    ($(#[doc = $doc:literal])+ $name:ident: $($line:literal)+) => {
        $(#[doc = $doc])+
        pub(crate) fn $name() -> &'static [u8] {
            #[unsafe(naked)]
            extern "C" fn place() -> Span {
                core::arch::naked_asm!("lea rax, [rip + 20f]", "lea rdx, [rip + 30f]", "ret", ".balign 16", "20:", $($line,)+ "30:")
            }
            let Span { begin, end } = place();
            // SAFETY: both lie in this program's text, in this order, which is never written.
            unsafe { core::slice::from_raw_parts(begin as *const u8, (end - begin) as usize) }
        }
    };
}

guest! {
    /// Uses every call of the personality; parent and child exit with 78 and 79.
    everything:
    "mov eax, 2"                    // own number
    "syscall"
    "cmp eax, 1"
    "jne 9f"
    "lea rsi, [rip + 8f]"           // a text
    "mov edx, 6"
    "mov eax, 1"
    "syscall"
    "cmp eax, 6"
    "jne 9f"
    "mov edi, 0x50000000"           // two pages
    "mov esi, 8192"
    "mov eax, 3"
    "syscall"
    "cmp rax, 0"
    "jne 9f"
    "mov rbx, 0x50000ffc"           // a word across their border
    "mov qword ptr [rbx], 77"
    "mov eax, 4"                    // fork
    "syscall"
    "cmp rax, 0"
    "jl 9f"
    "je 4f"
    "add qword ptr [rbx], 1"
    "jmp 5f"
    "4: add qword ptr [rbx], 2"
    "5: mov rdi, [rbx]"
    "mov eax, 0"                    // exit
    "syscall"
    "9: mov edi, 1"
    "mov eax, 0"
    "syscall"
    "ud2"
    "8: .ascii \"hello\\n\""
}

guest! {
    /// Makes system calls for ever and counts them in rbx.
    calls: "4: inc rbx" "syscall" "jmp 4b"
}

guest! {
    /// Spins.
    spins: "4: inc rbx" "pause" "jmp 4b"
}

guest! {
    /// Reads through the bases of fs and gs.
    bases: "mov rax, fs:[8]" "mov rbx, gs:[8]" "syscall"
}

guest! {
    /// Puts rax into vector registers, x87 and MXCSR, makes a system call, spins rcx times, and gives back what is there.
    vectors:
    "movq xmm0, rax"
    "movq xmm15, rbx"
    "mov dword ptr [rsp - 8], 0x7f80"   // round to zero
    "ldmxcsr [rsp - 8]"
    "fld1"
    "syscall"
    "mov ecx, 3000000"
    "4: dec ecx"
    "jnz 4b"
    "mov rdi, 0x50000000"               // a page that is not there yet
    "mov [rdi], rcx"
    "movq rax, xmm0"
    "movq rbx, xmm15"
    "stmxcsr [rsp - 8]"
    "mov edx, [rsp - 8]"
    "fistp qword ptr [rsp - 8]"
    "mov rcx, [rsp - 8]"
    "mov r12, rcx"
    "syscall"
}

guest! {
    /// Adds 1 to the word at rdi, for ever.
    adds: "4: lock inc qword ptr [rdi]" "jmp 4b"
}

guest! {
    /// Reads the word at rdi into rax and makes a system call, for ever.
    reads: "4: mov rax, [rdi]" "syscall" "jmp 4b"
}

guest! {
    /// One instruction of each exception, in the order of `super::exceptions`, 16 bytes apart.
    exceptions:
    "xor edx, edx" "xor eax, eax" "div eax"
    ".balign 16, 0x90" "int3"
    ".balign 16, 0x90" "ud2"
    ".balign 16, 0x90" "hlt"
    ".balign 16, 0x90" "int 0x80"
    ".balign 16, 0x90" "mov rax, [8]"
    ".balign 16, 0x90" "mov [rip], rax"
    ".balign 16, 0x90" "jmp rsp"
    ".balign 16, 0x90" "mov rax, [rdi]"
    ".balign 16, 0x90" "jmp rdi"
    ".balign 16, 0x90" "lldt ax"
    ".balign 16, 0x90" "swapgs"
    ".balign 16, 0x90" "wrmsr"
    ".balign 16, 0x90" "in al, 0x60"
    ".balign 16, 0x90" "mov cr3, rax"
    ".balign 16, 0x90"
}
