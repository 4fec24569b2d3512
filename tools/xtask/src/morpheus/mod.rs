//! What `cargo xtask` does for Morpheus beyond cargo's own tests.
//!
//! | module | concept |
//! | --- | --- |
//! | `python` | the wheel: built, installed, tested |

pub mod python;
