//! Restricted mode: how a personality runs its guests (DESIGN, The kernel, 8).

use crate::field::abi_struct;
use crate::words::abi_enum;

abi_enum! {
    /// Why a guest came back to its personality: what rsi holds at the return address.
    pub enum RestrictedReason {
        /// It has not.
        None = 0,
        /// It ran `syscall`: the number is in the state's rax.
        Syscall = 1,
        /// A processor exception: see `vector`, `error_code` and `fault_address` of the state.
        Exception = 2,
        /// restricted_kick was called for the thread.
        Kick = 3,
    }
}

abi_struct! {
    /// The state of a guest, at the start of the bound page: read by restricted_enter, written when the guest comes back.
    /// Vector registers are the personality's own business. `rip`, `rsp` and the bases must be below USER_END; of `rflags`
    /// only the arithmetic flags, DF, TF and AC count.
    pub record RestrictedState {
        /// rax
        rax: u64,
        /// rbx
        rbx: u64,
        /// rcx
        rcx: u64,
        /// rdx
        rdx: u64,
        /// rsi
        rsi: u64,
        /// rdi
        rdi: u64,
        /// rbp
        rbp: u64,
        /// rsp
        rsp: u64,
        /// r8
        r8: u64,
        /// r9
        r9: u64,
        /// r10
        r10: u64,
        /// r11
        r11: u64,
        /// r12
        r12: u64,
        /// r13
        r13: u64,
        /// r14
        r14: u64,
        /// r15
        r15: u64,
        /// The next instruction; after `syscall` the one behind it.
        rip: u64,
        /// Flags.
        rflags: u64,
        /// Base of fs.
        fs_base: u64,
        /// Base of gs.
        gs_base: u64,
        /// Written on return: why.
        reason: RestrictedReason,
        /// Written on return: the exception's vector.
        vector: u32,
        /// Written on return: the exception's error code.
        error_code: u64,
        /// Written on return: the address a page fault was for.
        fault_address: u64,
        /// Where the personality goes on when it touches an address of the lower half at which its guest may not do the same;
        /// 0: its unit ends. Read at such a fault; every register but rip is as it was. Ranges of the guest are copied so.
        fault_return: u64,
    }
}
