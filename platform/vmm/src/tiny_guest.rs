//! The smallest guests there are: PVH ELF images written byte by byte, for the probe and for tests.

/// Where the code is loaded and entered, in guest physical memory.
const ENTRY: u32 = 0x10_0000;

/// Shifts with a VEX-coded instruction where the processor has one, as Debian's kernels do before they page: a KVM that
/// emulates such code (seen with a software KVM) stops there. Then writes `0x10` to the exit device and halts: QEMU ends
/// with code 33.
const EXIT: &[u8] = &[
    0xb8, 0x07, 0x00, 0x00, 0x00, // mov eax, 7
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0xa2, // cpuid
    0xf7, 0xc3, 0x00, 0x01, 0x00, 0x00, // test ebx, 1 << 8: BMI2
    0x74, 0x0a, // jz past the shift
    0xba, 0x03, 0x00, 0x00, 0x00, // mov edx, 3
    0xc4, 0xe2, 0x69, 0xf7, 0xc0, // shlx eax, eax, edx
    0xb0, 0x10, // mov al, 0x10
    0x66, 0xba, 0xf4, 0x00, // mov dx, 0xf4
    0xee, // out dx, al
    0xf4, // hlt
];

/// Halts for good.
const HALT: &[u8] = &[
    0xfa, // cli
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// QEMU's exit code when the probe's guest has run: `(0x10 << 1) | 1`.
pub const EXIT_CODE: i32 = 33;

/// A guest that ends QEMU with [`EXIT_CODE`] where there is an `isa-debug-exit` device at port 0xf4.
pub fn exiting_guest() -> Vec<u8> {
    pvh_image(EXIT)
}

/// A guest that does nothing, forever, and costs nothing.
pub fn halted_guest() -> Vec<u8> {
    pvh_image(HALT)
}

/// An ELF file with one segment of code at [`ENTRY`] and the Xen note that names it as the PVH entry: entered in 32-bit
/// protected mode without paging (Xen, `docs/misc/pvh.pandoc`).
fn pvh_image(code: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 52;
    const PROGRAM_HEADER: u32 = 32;
    const PT_LOAD: u32 = 1;
    const PT_NOTE: u32 = 4;
    const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

    let mut note = Vec::new();
    for word in [4, 4, XEN_ELFNOTE_PHYS32_ENTRY] {
        note.extend_from_slice(&u32::to_le_bytes(word));
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&ENTRY.to_le_bytes());
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let note_size = u32::try_from(note.len()).unwrap_or_default();
    let code_at = note_at + note_size;
    let code_size = u32::try_from(code.len()).unwrap_or_default();

    let mut image = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    image.extend_from_slice(&2_u16.to_le_bytes()); // an executable
    image.extend_from_slice(&3_u16.to_le_bytes()); // for the 386
    for word in [1, ENTRY, HEADER, 0, 0] {
        image.extend_from_slice(&u32::to_le_bytes(word)); // version, entry, program headers, no sections, flags
    }
    for half in [HEADER as u16, PROGRAM_HEADER as u16, 2, 0, 0, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    for (kind, at, address, size, align) in
        [(PT_LOAD, code_at, ENTRY, code_size, 1), (PT_NOTE, note_at, 0, note_size, 4)]
    {
        for word in [kind, at, address, address, size, size, 5, align] {
            image.extend_from_slice(&u32::to_le_bytes(word));
        }
    }
    image.extend_from_slice(&note);
    image.extend_from_slice(code);
    image
}
