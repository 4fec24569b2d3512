//! Writes the C header of the pages to standard output: `cargo run -p morpheus-abi --example c_header > morpheus_abi.h`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let mut header = String::new();
    morpheus_abi::c_header::write(&mut header).expect("writing to a String cannot fail");
    std::io::stdout().write_all(header.as_bytes())
}
