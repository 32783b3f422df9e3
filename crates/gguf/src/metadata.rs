//! A model's key–value metadata, with getters that name the key where a value has the wrong type.

use crate::GgufError;

/// Strings packed into one allocation, as vocabularies hold hundreds of thousands of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Strings {
    /// Appends one string of any bytes. Readers cap the sum below 4 GiB first.
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Gives back memory beyond what the strings need.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// How many strings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The string at this place: bytes, since token texts need not be UTF-8.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// All strings in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// Either float type.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string: UTF-8, checked.
    Text(String),
    /// An array of any integer type.
    Integers(Vec<i64>),
    /// An array of either float type.
    Floats(Vec<f32>),
    /// An array of booleans.
    Bools(Vec<bool>),
    /// An array of strings of any bytes.
    Strings(Strings),
}

impl Value {
    /// What it is, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::Text(_) => "a string",
            Self::Integers(_) => "an array of integers",
            Self::Floats(_) => "an array of floats",
            Self::Bools(_) => "an array of booleans",
            Self::Strings(_) => "an array of strings",
        }
    }
}

/// All metadata of a model, in file order, keys unique.
///
/// A key that starts with a dot belongs to the model's architecture: `.block_count` is `llama.block_count` in a
/// llama file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Metadata with these entries; the reader has refused duplicate keys.
    #[must_use]
    pub const fn new(entries: Vec<(String, Value)>) -> Self {
        Self { entries }
    }

    /// Every entry in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Drops the entries whose key is named by `drop`, to free a vocabulary once it is built.
    pub fn forget(&mut self, drop: impl Fn(&str) -> bool) {
        self.entries.retain(|(key, _)| !drop(key));
    }

    /// The model's architecture, `general.architecture`.
    ///
    /// # Errors
    /// [`GgufError`] where the key is missing or no string.
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.text("general.architecture")?.ok_or_else(|| GgufError::missing_key("general.architecture"))
    }

    /// The full name of `key`: a leading dot stands for the architecture.
    #[must_use]
    pub fn full_key(&self, key: &str) -> String {
        // The architecture is looked up only for a key of its own: its own error names a key, too.
        match key.strip_prefix('.').map(|own| (own, self.architecture())) {
            Some((own, Ok(architecture))) => format!("{architecture}.{own}"),
            _ => key.to_owned(),
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let full = if key.starts_with('.') { &self.full_key(key) } else { key };
        self.entries.iter().find(|(name, _)| name == full).map(|(_, value)| value)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(found) => Ok(Some(found)),
                None => Err(GgufError::wrong_type(&self.full_key(key), expected, value.kind())),
            },
        }
    }

    /// A string.
    ///
    /// # Errors
    /// Where the value is no string.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer that is not negative, of any stored width.
    ///
    /// # Errors
    /// Where the value is none.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an unsigned integer", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// An integer that must be there.
    ///
    /// # Errors
    /// Where it is missing or no unsigned integer.
    pub fn require_unsigned(&self, key: &str) -> Result<u64, GgufError> {
        self.unsigned(key)?.ok_or_else(|| GgufError::missing_key(&self.full_key(key)))
    }

    /// A finite number.
    ///
    /// # Errors
    /// Where the value is no number, infinite or not a number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a finite number", |value| match value {
            Value::Float(x) if x.is_finite() => Some(*x),
            Value::Unsigned(n) => Some(*n as f64),
            Value::Signed(n) => Some(*n as f64),
            _ => None,
        })
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// Where it is missing or no finite number.
    pub fn require_float(&self, key: &str) -> Result<f64, GgufError> {
        self.float(key)?.ok_or_else(|| GgufError::missing_key(&self.full_key(key)))
    }

    /// A boolean.
    ///
    /// # Errors
    /// Where the value is none.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// Where the value is none.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Strings(strings) => Some(strings),
            _ => None,
        })
    }

    /// An array of floats.
    ///
    /// # Errors
    /// Where the value is none.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of floats", |value| match value {
            Value::Floats(floats) => Some(floats.as_slice()),
            _ => None,
        })
    }

    /// An array of integers.
    ///
    /// # Errors
    /// Where the value is none.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Integers(integers) => Some(integers.as_slice()),
            _ => None,
        })
    }

    /// A number for each of `layers` layers: one for all, or an array with one for each.
    ///
    /// # Errors
    /// Where it is missing, of another type, or an array of another length.
    pub fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<u64>>, GgufError> {
        let full = self.full_key(key);
        match self.get(key) {
            Some(Value::Integers(list)) if list.len() == layers => list
                .iter()
                .map(|n| u64::try_from(*n).map_err(|_| GgufError::wrong_type(&full, "no negative number", "one")))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(Value::Integers(list)) => Err(GgufError::wrong_value(
                &full,
                format!("one number for each of {layers} layers"),
                format!("{} numbers", list.len()),
            )),
            _ => Ok(self.unsigned(key)?.map(|n| vec![n; layers])),
        }
    }
}
