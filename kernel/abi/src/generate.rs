//! Writes the C header and the reference page from the table.
