//! The C header for the BPF programs, written from the same tables as the Rust types.

use core::fmt::{self, Write};

use crate::field::StructTable;
use crate::values::EnumTable;
use crate::{
    ABI_VERSION, Direction, EscalationPolicy, HEARTBEAT_PERIOD_NS, HEARTBEAT_STALE_NS, KernelLine, LINE_SIZE, MAGIC,
    MAX_WORKERS, NO_DEADLINE, PAGE_SIZE, PageHeader, Reason, RuntimeLine, WorkerState, YIELD_CAUSES, YieldCause, flags,
};

/// Writes `morpheus_abi.h`.
///
/// # Errors
/// Only those of `out`.
pub fn write(out: &mut dyn Write) -> fmt::Result {
    out.write_str(
        "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n\
         /* Made from morpheus/abi/src by `cargo run -p morpheus-abi --example c_header`; a test compares. Do not edit. */\n\
         #ifndef MORPHEUS_ABI_H\n#define MORPHEUS_ABI_H\n\n\
         #ifndef __VMLINUX_H__\n#include <linux/types.h>\n#endif\n\n",
    )?;
    let numbers: [(&str, u64); 13] = [
        ("ABI_VERSION", ABI_VERSION.into()),
        ("PAGE_SIZE", PAGE_SIZE as u64),
        ("LINE_SIZE", LINE_SIZE as u64),
        ("MAX_WORKERS", MAX_WORKERS as u64),
        ("HEARTBEAT_PERIOD_NS", HEARTBEAT_PERIOD_NS),
        ("HEARTBEAT_STALE_NS", HEARTBEAT_STALE_NS),
        ("NO_DEADLINE", NO_DEADLINE),
        ("DIRECTION_KERNEL_TO_RUNTIME", Direction::KernelToRuntime as u64),
        ("DIRECTION_RUNTIME_TO_KERNEL", Direction::RuntimeToKernel as u64),
        ("FLAG_OBSERVE", flags::OBSERVE.into()),
        ("FLAG_ENFORCE", flags::ENFORCE.into()),
        ("FLAG_RUNQUEUE_WAIT", flags::RUNQUEUE_WAIT.into()),
        ("FLAG_BUDGET", flags::BUDGET.into()),
    ];
    writeln!(out, "#define MORPHEUS_MAGIC {MAGIC:#x}ULL")?;
    for (name, value) in numbers {
        let suffix = if name.ends_with("_NS") || name == "NO_DEADLINE" { "ULL" } else { "" };
        writeln!(out, "#define MORPHEUS_{name} {value}{suffix}")?;
    }
    writeln!(out, "#define MORPHEUS_YIELD_CAUSES {YIELD_CAUSES}")?;
    writeln!(out, "#define MORPHEUS_REASON_NONE 0")?;
    for table in [&Reason::TABLE, &WorkerState::TABLE, &YieldCause::TABLE, &EscalationPolicy::TABLE] {
        enumeration(out, table)?;
    }
    for table in [&PageHeader::TABLE, &KernelLine::TABLE, &RuntimeLine::TABLE] {
        structure(out, table)?;
    }
    for (name, line) in [("kernel", KernelLine::TABLE.name), ("runtime", RuntimeLine::TABLE.name)] {
        writeln!(
            out,
            "\nstruct morpheus_{name}_page {{\n\tstruct {} header;\n\tstruct {line} lines[MORPHEUS_MAX_WORKERS];\n}};\n\
             _Static_assert(sizeof(struct morpheus_{name}_page) == MORPHEUS_PAGE_SIZE, \"morpheus_{name}_page\");",
            PageHeader::TABLE.name
        )?;
    }
    out.write_str("\n#endif\n")
}

fn comment(out: &mut dyn Write, indent: &str, doc: &[&str]) -> fmt::Result {
    for (index, line) in doc.iter().enumerate() {
        let start = if index == 0 { "/*" } else { " *" };
        let end = if index + 1 == doc.len() { " */" } else { "" };
        writeln!(out, "{indent}{start}{line}{end}")?;
    }
    Ok(())
}

fn upper(out: &mut dyn Write, name: &str) -> fmt::Result {
    name.chars().try_for_each(|letter| out.write_char(letter.to_ascii_uppercase()))
}

fn enumeration(out: &mut dyn Write, table: &EnumTable) -> fmt::Result {
    out.write_char('\n')?;
    comment(out, "", table.doc)?;
    for (name, number, doc) in table.values {
        comment(out, "", doc)?;
        write!(out, "#define {}", table.prefix)?;
        upper(out, name)?;
        writeln!(out, " {number}")?;
    }
    Ok(())
}

fn structure(out: &mut dyn Write, table: &StructTable) -> fmt::Result {
    out.write_char('\n')?;
    comment(out, "", table.doc)?;
    writeln!(out, "struct {} {{", table.name)?;
    for field in table.fields {
        comment(out, "\t", field.doc)?;
        match field.c_count {
            Some(count) => writeln!(out, "\t{} {}[{count}];", field.c_type, field.name)?,
            None => writeln!(out, "\t{} {};", field.c_type, field.name)?,
        }
    }
    writeln!(out, "}} __attribute__((aligned({LINE_SIZE})));")?;
    writeln!(out, "_Static_assert(sizeof(struct {0}) == {1}, \"{0}\");", table.name, table.size)?;
    for field in table.fields {
        writeln!(
            out,
            "_Static_assert(__builtin_offsetof(struct {0}, {1}) == {2}, \"{0}.{1}\");",
            table.name, field.name, field.offset
        )?;
    }
    Ok(())
}
