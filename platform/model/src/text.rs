//! Texts for serde: a type that is read by `FromStr` and written by `Display`.

/// Makes types the texts that serde takes and gives, where they say `#[serde(try_from = "String", into = "String")]`.
macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl TryFrom<String> for $name {
            type Error = <Self as std::str::FromStr>::Err;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(named: $name) -> Self {
                named.to_string()
            }
        }
    )+};
}

pub(crate) use as_text;
