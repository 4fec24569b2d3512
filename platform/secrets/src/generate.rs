//! New random values.

use crate::value::SecretValue;

/// Letters and digits of URL-safe base64: no quoting anywhere, six bits each.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A value of `length` characters from `A-Z a-z 0-9 - _`, from the kernel's random numbers: six bits for each character.
///
/// # Errors
/// When the kernel gives no random numbers.
pub fn generate(length: usize) -> std::io::Result<SecretValue> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
    for byte in &mut bytes {
        *byte = ALPHABET[usize::from(*byte % 64)];
    }
    Ok(SecretValue::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_length_and_alphabet_and_differ() {
        let (one, two) = (generate(43).unwrap(), generate(43).unwrap());
        assert_eq!(one.expose().len(), 43);
        assert!(one.expose().iter().all(|byte| ALPHABET.contains(byte)));
        assert_ne!(one, two);
    }
}
