//! Writes the C header and the reference page from the table.

use core::fmt::{Display, Formatter, Result, Write};

use crate::limits::LIMITS;
use crate::{
    ALIASES, ArgKind, CALLS, CallInfo, ENUMS, EnumInfo, FLAGS, FlagsInfo, ObjectType, ResultKind, Rights, STRUCTS,
    StructInfo,
};

/// A name in CamelCase, written in words joined by `_`.
struct Words(&'static str, Case);

/// Which letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

impl Display for Words {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut before = '_';
        for letter in self.0.chars() {
            if letter.is_ascii_uppercase() && !before.is_ascii_uppercase() && before != '_' {
                f.write_char('_')?;
            }
            f.write_char(match self.1 {
                Case::Lower => letter.to_ascii_lowercase(),
                Case::Upper => letter.to_ascii_uppercase(),
            })?;
            before = letter;
        }
        Ok(())
    }
}

fn lower(name: &'static str) -> Words {
    Words(name, Case::Lower)
}

fn upper(name: &'static str) -> Words {
    Words(name, Case::Upper)
}

/// A documentation text on one line, without the marks that only the Rust pages understand.
struct Line(&'static str);

impl Display for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let words = self.0.split_whitespace().enumerate();
        for (index, word) in words {
            if index > 0 {
                f.write_char(' ')?;
            }
            for part in word.replace_marks() {
                let name = part.trim_end_matches(['.', ',', ';', ':', ')']);
                let error = crate::Error::ALL.iter().find(|error| error.name() == name);
                match error.filter(|_| name.chars().filter(char::is_ascii_uppercase).count() > 1) {
                    Some(error) => write!(f, "{}{}", upper(error.name()), &part[name.len()..])?,
                    None => f.write_str(part)?,
                }
            }
        }
        Ok(())
    }
}

trait ReplaceMarks {
    fn replace_marks(&self) -> impl Iterator<Item = &str>;
}

impl ReplaceMarks for str {
    /// The parts of a word without the marks of links into the Rust pages.
    fn replace_marks(&self) -> impl Iterator<Item = &str> {
        self.split("[`crate::").flat_map(|part| part.split("[`")).flat_map(|part| part.split("`]"))
    }
}

/// Writes `kernel/abi/include/holm.h`.
///
/// # Errors
/// Those of `out`.
pub fn header(out: &mut dyn Write) -> Result {
    out.write_str(HEADER_TOP)?;
    out.write_str("/* Limits */\n")?;
    for limit in LIMITS {
        writeln!(out, "#define HOLM_{} UINT64_C({}) /* {} */", limit.name, limit.value, Line(limit.doc))?;
    }
    for info in ENUMS {
        header_enum(out, info)?;
    }
    for info in FLAGS {
        header_flags(out, info)?;
    }
    for info in STRUCTS {
        header_struct(out, info)?;
    }
    out.write_str("\n/* Numbers of the system calls */\n")?;
    for call in CALLS {
        writeln!(out, "#define HOLM_CALL_{} {}", upper(call.name), call.number)?;
    }
    for (alias, name) in ALIASES {
        writeln!(out, "#define HOLM_CALL_{} HOLM_CALL_{}", upper(alias), upper(name))?;
    }
    out.write_str(HEADER_ENTER)?;
    for call in CALLS {
        header_stub(out, call)?;
    }
    out.write_str("\n#endif\n")
}

fn header_enum(out: &mut dyn Write, info: &EnumInfo) -> Result {
    writeln!(out, "\n/* {} */\nenum holm_{} {{", Line(info.doc), lower(info.name))?;
    for value in info.values {
        let (kind, name) = (upper(info.name), upper(value.name));
        writeln!(out, "    HOLM_{kind}_{name} = {}, /* {} */", value.value, Line(value.doc))?;
    }
    out.write_str("};\n")
}

fn header_flags(out: &mut dyn Write, info: &FlagsInfo) -> Result {
    writeln!(out, "\n/* {} */", Line(info.doc))?;
    for value in info.values {
        let bit = value.value.trailing_zeros();
        let (kind, name) = (upper(info.name), value.name);
        writeln!(out, "#define HOLM_{kind}_{name} (UINT64_C(1) << {bit}) /* {} */", Line(value.doc))?;
    }
    Ok(())
}

fn header_struct(out: &mut dyn Write, info: &StructInfo) -> Result {
    writeln!(out, "\n/* {} */\nstruct holm_{} {{", Line(info.doc), lower(info.name))?;
    for field in info.fields {
        write!(out, "    {} {}", field.c_type, field.name)?;
        if field.length > 0 {
            write!(out, "[{}]", field.length)?;
        }
        writeln!(out, "; /* {} */", Line(field.doc))?;
    }
    out.write_str("};\n")?;
    if info.version > 0 {
        writeln!(out, "#define HOLM_{}_VERSION {}", upper(info.name), info.version)?;
    }
    Ok(())
}

fn parameters(out: &mut dyn Write, call: &CallInfo) -> Result {
    let mut separator = "";
    for argument in call.arguments {
        let name = argument.name;
        out.write_str(separator)?;
        separator = ", ";
        match argument.kind {
            ArgKind::Handle { .. } | ArgKind::RawHandle => write!(out, "holm_handle_t {name}")?,
            ArgKind::In(info) => write!(out, "const struct holm_{} *{name}", lower(info.name))?,
            ArgKind::Out(info) | ArgKind::InOut(info) => write!(out, "struct holm_{} *{name}", lower(info.name))?,
            ArgKind::BytesIn => write!(out, "const void *{name}, uint64_t {name}_bytes")?,
            ArgKind::BytesOut => write!(out, "void *{name}, uint64_t {name}_bytes")?,
            ArgKind::RecordsOut(info) => {
                write!(out, "struct holm_{} *{name}, uint64_t {name}_count", lower(info.name))?;
            }
            ArgKind::Value(_) => write!(out, "uint32_t {name}")?,
            ArgKind::Short(_) => write!(out, "uint64_t {name}_message")?,
            ArgKind::Signed => write!(out, "int64_t {name}")?,
            ArgKind::Flags(_) | ArgKind::Number | ArgKind::Address | ArgKind::Deadline => {
                write!(out, "uint64_t {name}")?;
            }
        }
    }
    match call.result {
        ResultKind::Handles(_) => write!(out, "{separator}holm_handle_t *second"),
        ResultKind::Short => write!(out, "{separator}struct holm_registers *answer"),
        _ if separator.is_empty() => out.write_str("void"),
        _ => Ok(()),
    }
}

/// The names of the argument registers in the header's `struct holm_registers`, in order.
const REGISTERS: [&str; 6] = ["rdi", "rsi", "rdx", "r10", "r8", "r9"];

fn header_stub(out: &mut dyn Write, call: &CallInfo) -> Result {
    write!(out, "\nstatic inline int64_t holm_{}(", call.name)?;
    parameters(out, call)?;
    writeln!(out, ")\n{{\n    struct holm_registers r = {{ .rax = HOLM_CALL_{} }};", upper(call.name))?;
    let mut registers = REGISTERS.iter();
    let mut set = |out: &mut dyn Write, cast: &str, name: &str, suffix: &str| match registers.next() {
        Some(register) => writeln!(out, "    r.{register} = {cast}{name}{suffix};"),
        None => Ok(()),
    };
    for argument in call.arguments {
        match argument.kind {
            ArgKind::Handle { .. } | ArgKind::RawHandle => set(out, "(uint32_t)", argument.name, "")?,
            ArgKind::In(_) | ArgKind::Out(_) | ArgKind::InOut(_) => {
                set(out, "(uint64_t)(uintptr_t)", argument.name, "")?;
            }
            ArgKind::BytesIn | ArgKind::BytesOut => {
                set(out, "(uint64_t)(uintptr_t)", argument.name, "")?;
                set(out, "", argument.name, "_bytes")?;
            }
            ArgKind::RecordsOut(_) => {
                set(out, "(uint64_t)(uintptr_t)", argument.name, "")?;
                set(out, "", argument.name, "_count")?;
            }
            ArgKind::Signed => set(out, "(uint64_t)", argument.name, "")?,
            ArgKind::Short(_) => set(out, "", argument.name, "_message")?,
            _ => set(out, "", argument.name, "")?,
        }
    }
    out.write_str("    holm_enter(&r);\n")?;
    match call.result {
        ResultKind::Handles(_) => out.write_str("    *second = (holm_handle_t)r.rdx;\n")?,
        ResultKind::Short => out.write_str("    *answer = r;\n")?,
        _ => {}
    }
    out.write_str("    return (int64_t)r.rax;\n}\n")
}

/// Writes `docs/abi.md`.
///
/// # Errors
/// Those of `out`.
pub fn reference(out: &mut dyn Write) -> Result {
    out.write_str(REFERENCE_TOP)?;
    out.write_str("\n## Calls\n\n| number | call | RT-safe | seed |\n| --- | --- | --- | --- |\n")?;
    for call in CALLS {
        let bound = if call.bound.is_empty() { "–" } else { call.bound };
        writeln!(out, "| {} | [`{}`](#{1}) | {bound} | {} |", call.number, call.name, call.section)?;
    }
    for (alias, name) in ALIASES {
        writeln!(out, "\n`{alias}` is another name of [`{name}`](#{name}).")?;
    }
    for call in CALLS {
        reference_call(out, call)?;
    }
    out.write_str("\n## Errors\n\n| code | error | category | meaning |\n| --- | --- | --- | --- |\n")?;
    for (error, value) in crate::Error::ALL.iter().zip(crate::Error::INFO.values) {
        let category = error.category().name();
        writeln!(out, "| {} | {} | {category} | {} |", value.value, upper(value.name), Line(value.doc))?;
    }
    reference_types(out)?;
    out.write_str("\n## Structs\n")?;
    for info in STRUCTS {
        reference_struct(out, info)?;
    }
    out.write_str("\n## Enumerations\n")?;
    for info in ENUMS.iter().filter(|info| info.name != "Error") {
        writeln!(out, "\n### {}\n\n{}\n\n| value | name | meaning |\n| --- | --- | --- |", info.name, Line(info.doc))?;
        for value in info.values {
            writeln!(out, "| {} | {} | {} |", value.value, upper(value.name), Line(value.doc))?;
        }
    }
    out.write_str("\n## Flags\n")?;
    for info in FLAGS {
        writeln!(out, "\n### {}\n\n{}\n\n| bit | name | meaning |\n| --- | --- | --- |", info.name, Line(info.doc))?;
        for value in info.values {
            writeln!(out, "| {} | {} | {} |", value.value.trailing_zeros(), value.name, Line(value.doc))?;
        }
    }
    out.write_str("\n## Limits\n\n| limit | value | meaning |\n| --- | --- | --- |\n")?;
    for limit in LIMITS {
        writeln!(out, "| {} | {} | {} |", limit.name, limit.value, Line(limit.doc))?;
    }
    Ok(())
}

/// The names of rights, joined.
struct RightNames(Rights);

impl Display for RightNames {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut separator = "";
        for value in Rights::INFO.values.iter().filter(|value| self.0.bits() & value.value != 0) {
            write!(f, "{separator}{}", value.name)?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// What an argument is, in words.
struct Meaning(ArgKind);

impl Display for Meaning {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            ArgKind::Handle { types, rights, or_self } => {
                f.write_str("handle of ")?;
                for (index, object) in types.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { " or " } else { "" }, object.name())?;
                }
                if types.is_empty() {
                    f.write_str("any type")?;
                }
                write!(f, " with {}", RightNames(rights))?;
                match types.first() {
                    Some(ObjectType::Thread) if or_self => f.write_str("; 0: the calling thread"),
                    _ if or_self => f.write_str("; 0: the caller's unit"),
                    _ => Ok(()),
                }
            }
            ArgKind::RawHandle => f.write_str("handle of any type"),
            ArgKind::In(info) => write!(f, "address of [{}](#{}), read", info.name, Anchor(info.name)),
            ArgKind::Out(info) => write!(f, "address of [{}](#{}), written", info.name, Anchor(info.name)),
            ArgKind::InOut(info) => write!(f, "address of [{}](#{}), read and written", info.name, Anchor(info.name)),
            ArgKind::BytesIn => f.write_str("address and length of bytes, read"),
            ArgKind::BytesOut => f.write_str("address and length of bytes, written"),
            ArgKind::RecordsOut(info) => {
                write!(f, "address and number of [{}](#{}) records, written", info.name, Anchor(info.name))
            }
            ArgKind::Flags(info) => write!(f, "[{}](#{})", info.name, Anchor(info.name)),
            ArgKind::Value(info) => write!(f, "[{}](#{})", info.name, Anchor(info.name)),
            ArgKind::Short(right) => write!(f, "channel with {}, and the short message's facts", RightNames(right)),
            ArgKind::Number => f.write_str("number"),
            ArgKind::Signed => f.write_str("signed number"),
            ArgKind::Address => f.write_str("user address"),
            ArgKind::Deadline => f.write_str("deadline: monotonic nanoseconds"),
        }
    }
}

/// A name as the anchor of its heading.
struct Anchor(&'static str);

impl Display for Anchor {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.chars().try_for_each(|letter| f.write_char(letter.to_ascii_lowercase()))
    }
}

fn reference_call(out: &mut dyn Write, call: &CallInfo) -> Result {
    write!(out, "\n### {}\n\n```c\nint64_t holm_{0}(", call.name)?;
    parameters(out, call)?;
    writeln!(out, ");\n```\n\nCall {}, seed {}. {}\n", call.number, call.section, Line(call.doc))?;
    if !call.arguments.is_empty() {
        out.write_str("| register | argument | meaning |\n| --- | --- | --- |\n")?;
    }
    let mut registers = REGISTERS.iter();
    for argument in call.arguments {
        out.write_str("| ")?;
        for index in 0..argument.kind.registers() {
            let register = registers.next().copied().unwrap_or("?");
            write!(out, "{}{register}", if index > 0 { ", " } else { "" })?;
        }
        writeln!(out, " | `{}` | {} |", argument.name, Meaning(argument.kind))?;
    }
    out.write_str(if call.arguments.is_empty() { "Result: " } else { "\nResult: " })?;
    match call.result {
        ResultKind::None => out.write_str("0")?,
        ResultKind::Handle(ObjectType::Invalid) => out.write_str("handle of the same type")?,
        ResultKind::Handle(object) => write!(out, "handle of {}", object.name())?,
        ResultKind::Handles(object) => write!(out, "two handles of {}, in rax and rdx", object.name())?,
        ResultKind::Number(what) => out.write_str(what)?,
        ResultKind::Short => {
            out.write_str("facts of the short message in rax; words in rdx, r10, r8, r9; token in rdi; badge in rsi")?
        }
        ResultKind::Never => out.write_str("does not return")?,
    }
    let bound = if call.bound.is_empty() { "no" } else { call.bound };
    write!(out, ". RT-safe: {bound}.\n\nErrors: ")?;
    let mut separator = "";
    for error in call.errors() {
        write!(out, "{separator}{}", upper(error.name()))?;
        separator = ", ";
    }
    writeln!(out, "{}.", if separator.is_empty() { "none" } else { "" })
}

fn reference_types(out: &mut dyn Write) -> Result {
    out.write_str(
        "\n## Types of objects\n\n| type | rights of its first handle | class | transfer |\n| --- | --- | --- | --- |\n",
    )?;
    for object in ObjectType::ALL.iter().filter(|object| !object.rights().is_none()) {
        let class = object.concurrency_class().name();
        let transfer = if object.transfer_flags().is_none() { "none" } else { "move, borrow, clone" };
        writeln!(out, "| {} | {} | {} | {transfer} |", object.name(), RightNames(object.rights()), upper(class))?;
    }
    Ok(())
}

fn reference_struct(out: &mut dyn Write, info: &StructInfo) -> Result {
    writeln!(out, "\n### {}\n\n{}\n", info.name, Line(info.doc))?;
    match info.version {
        0 => writeln!(out, "Record of {} bytes.\n", info.size)?,
        version => writeln!(out, "Version {version}, {} bytes.\n", info.size)?,
    }
    out.write_str("| offset | type | field | meaning |\n| --- | --- | --- | --- |\n")?;
    for field in info.fields {
        write!(out, "| {} | {}", field.offset, field.type_name)?;
        if field.length > 0 {
            write!(out, " × {}", field.length)?;
        }
        writeln!(out, " | `{}` | {} |", field.name, Line(field.doc))?;
    }
    Ok(())
}

const HEADER_TOP: &str = "\
/* The Holm kernel's interface for C. Generated from kernel/abi: do not edit; docs/abi.md explains every part. */
#ifndef HOLM_H
#define HOLM_H

#include <stdint.h>

/* Names a capability of the calling unit; 0 is none. */
typedef int32_t holm_handle_t;

";

const HEADER_ENTER: &str = "
/* What the registers hold on the way into the kernel and back. */
struct holm_registers {
    uint64_t rax, rdi, rsi, rdx, r10, r8, r9;
};

/* Enters the kernel. Vector registers are lost, as by a call of a function. */
static inline void holm_enter(struct holm_registers *r)
{
    register uint64_t r10 __asm__(\"r10\") = r->r10;
    register uint64_t r8 __asm__(\"r8\") = r->r8;
    register uint64_t r9 __asm__(\"r9\") = r->r9;
    __asm__ volatile(\"syscall\"
                     : \"+a\"(r->rax), \"+D\"(r->rdi), \"+S\"(r->rsi), \"+d\"(r->rdx), \"+r\"(r10), \"+r\"(r8), \"+r\"(r9)
                     :
                     : \"rcx\", \"r11\", \"memory\", \"xmm0\", \"xmm1\", \"xmm2\", \"xmm3\", \"xmm4\", \"xmm5\", \"xmm6\", \"xmm7\",
                       \"xmm8\", \"xmm9\", \"xmm10\", \"xmm11\", \"xmm12\", \"xmm13\", \"xmm14\", \"xmm15\");
    r->r10 = r10;
    r->r8 = r8;
    r->r9 = r9;
}
";

const REFERENCE_TOP: &str = "\
# The Holm kernel's interface

This page is generated from the table in `kernel/abi`; so are the dispatcher's checks, the C header
(`kernel/abi/include/holm.h`) and the stubs of Rust programs. It is complete: what is not here does not exist.

## How to call

`syscall` with the number in rax and arguments in rdi, rsi, rdx, r10, r8, r9. The result is in rax: zero or more is
success, less is the negated code of an [error](#errors), and then nothing was done. rcx, r11 and the vector registers are
lost; all else is kept, except where a call says that it answers in more registers.

**Handles.** A handle is a positive 32-bit number: bits 0 to 15 a slot of the unit's table, bits 16 to 30 its generation.
A number that is no handle, or no longer, answers BAD_HANDLE; a handle of another type WRONG_TYPE; one without a right
the call needs ACCESS; one that was revoked REVOKED. They are checked in the order revoked, type, rights. A new unit has
its own handle in slot 0, its first thread's in slot 1 and the capabilities it was given from slot 2 on.

**Structs.** A struct begins with `version` and `size`, set by the caller. A struct longer than the kernel knows is
TOO_BIG when what it does not know is not zero, or when it is longer than 4096 bytes; of a shorter one the missing tail
reads as zero. Version 0 or one the kernel does not know, a size below 8, unknown flags and unknown enumerators are
INVALID. Of a struct that is written the kernel writes no more than the caller's size and sets `size` to what it wrote.
Records have no version and no size; their layout does not change.

**Memory.** A pointer to where the caller may not read or write answers FAULT; the kernel resolves lazy and copy-on-write
pages as an access of the program would. All numbers are little endian.

**Deadlines.** Nanoseconds on the monotonic clock. A call with a deadline in the past tries once; NEVER has no deadline.

**Bounds.** An RT-safe call takes time bounded as said. Longer work is done in steps: between two of them the kernel lets
interrupts and more urgent threads in, and the call goes on by itself.

**Short messages.** The short calls carry up to 32 bytes in registers. Their first argument holds the handle in bits 0 to
31, the length in bits 32 to 39, the priority in bits 40 to 47 and ShortFlags in bits 48 to 55; the payload is in rdx,
r10, r8, r9, first byte lowest. A short message received has the same in rax, with the handle of the capability that came
(or 0) in bits 0 to 31, the payload in the same registers, the reply token in rdi (0: nobody waits for a reply) and the
badge in rsi. A capability comes only to who receives with CAP; its rights are told by cap_get_info.
";
