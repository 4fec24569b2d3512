//! The first instructions: from what the loader leaves (PVH: 32-bit protected mode, no paging) to Rust in long mode.
//!
//! The loader finds [`pvh_entry`](self) by an ELF note and jumps to it with `ebx` pointing to its start information. The
//! code here lies at its physical address; it maps the first 4 GiB twice (as they are, and at [`crate::memory::DIRECT`])
//! and the kernel image at its own address, with tables that live in `.bss` and are used only until
//! [`crate::memory::paging`] has made the real ones. Processors that are started later use them for their first steps too.

use core::arch::global_asm;

/// Bytes of the stack that boot runs on until the first processor has its own.
pub(crate) const STACK: usize = 16 * 1024;

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY: https://xenbits.xen.org/docs/unstable/misc/pvh.html
    ".section .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad pvh_entry",
    "",
    ".section .bss",
    ".balign 4096",
    ".global boot_tables",
    "boot_tables: .skip 7 * 4096",
    ".balign 16",
    ".skip {stack}",
    ".global boot_stack_end",
    "boot_stack_end:",
    "",
    ".section .boot.text, \"ax\"",
    ".code32",
    ".global pvh_entry",
    "pvh_entry:",
    "cli",
    "cld",
    // Time zero, kept in `esi` and `ebp`.
    "rdtsc",
    "mov esi, eax",
    "mov ebp, edx",
    "mov esp, offset boot_stack_physical",
    "mov edi, offset boot_tables_physical",
    // The root: the first 512 GiB, the same at the direct map, and the last 512 GiB.
    "lea eax, [edi + 0x1003]",
    "mov [edi], eax",
    "mov [edi + 256 * 8], eax",
    "lea eax, [edi + 0x2003]",
    "mov [edi + 511 * 8], eax",
    // The last but one GiB is the first of memory again: the kernel.
    "lea eax, [edi + 0x3003]",
    "mov [edi + 0x2000 + 510 * 8], eax",
    "mov [edi + 0x1000], eax",
    "add eax, 0x1000",
    "mov [edi + 0x1008], eax",
    "add eax, 0x1000",
    "mov [edi + 0x1010], eax",
    "add eax, 0x1000",
    "mov [edi + 0x1018], eax",
    // 2,048 pages of 2 MiB.
    "mov eax, 0x83",
    "mov ecx, 0",
    "2: mov [edi + ecx * 8 + 0x3000], eax",
    "add eax, 0x200000",
    "inc ecx",
    "cmp ecx, 2048",
    "jne 2b",
    "call enter_long_mode_tables",
    "lgdt [boot_gdt_pointer]",
    "ljmp 8, offset boot_long",
    "",
    // Turns on long mode with the boot tables; also called by processors that start later.
    ".global enter_long_mode_tables",
    "enter_long_mode_tables:",
    "mov eax, offset boot_tables_physical",
    "mov cr3, eax",
    "mov eax, 0x620", // OSXMMEXCPT, OSFXSR, PAE
    "mov cr4, eax",
    "mov ecx, 0xc0000080",
    "mov eax, 0x901", // NXE, LME, SCE
    "xor edx, edx",
    "wrmsr",
    "mov eax, 0x80010033", // PG, WP, NE, ET, MP, PE
    "mov cr0, eax",
    "ret",
    "",
    ".code64",
    "boot_long:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rsp, offset boot_stack_end",
    "mov edi, ebx",
    "shl rbp, 32",
    "or rsi, rbp",
    "xor ebp, ebp",
    "mov rax, offset {start}",
    "call rax",
    "ud2",
    "",
    ".balign 8",
    ".global boot_gdt",
    // Accessed bits are set, since the processor would set them in memory that is not writable later.
    "boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff",
    ".global boot_gdt_pointer",
    "boot_gdt_pointer: .word 31",
    ".long boot_gdt",
    ".long 0",
    ".text",
    stack = const STACK,
    start = sym super::start,
);
