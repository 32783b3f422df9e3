//! A GGUF file before it is written: every part can be set to anything.

/// A metadata value: the number of its type and its bytes.
#[derive(Clone, Debug)]
pub struct Field {
    /// The number of the type.
    pub kind: u32,
    /// Everything behind it.
    pub bytes: Vec<u8>,
}

/// A string as files hold it.
fn text_bytes(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

impl Field {
    /// Any type and bytes.
    #[must_use]
    pub fn raw(kind: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind, bytes: bytes.into() }
    }

    /// An unsigned 32-bit number.
    #[must_use]
    pub fn u32(value: u32) -> Self {
        Self::raw(4, value.to_le_bytes())
    }

    /// A signed 32-bit number.
    #[must_use]
    pub fn i32(value: i32) -> Self {
        Self::raw(5, value.to_le_bytes())
    }

    /// An unsigned 64-bit number.
    #[must_use]
    pub fn u64(value: u64) -> Self {
        Self::raw(10, value.to_le_bytes())
    }

    /// A 32-bit float.
    #[must_use]
    pub fn f32(value: f32) -> Self {
        Self::raw(6, value.to_le_bytes())
    }

    /// A boolean.
    #[must_use]
    pub fn boolean(value: bool) -> Self {
        Self::raw(7, [u8::from(value)])
    }

    /// A string of any bytes.
    #[must_use]
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self::raw(8, text_bytes(text.as_ref()))
    }

    /// An array that claims this element type and count, whatever its bytes.
    #[must_use]
    pub fn array(kind: u32, count: u64, bytes: &[u8]) -> Self {
        Self::raw(9, [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
    }

    /// An array of strings.
    #[must_use]
    pub fn texts<T: AsRef<[u8]>>(texts: &[T]) -> Self {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| text_bytes(text.as_ref())).collect();
        Self::array(8, texts.len() as u64, &bytes)
    }

    /// An array of signed 32-bit numbers.
    #[must_use]
    pub fn i32s(values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::array(5, values.len() as u64, &bytes)
    }

    /// An array of 32-bit floats.
    #[must_use]
    pub fn f32s(values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::array(6, values.len() as u64, &bytes)
    }
}

/// A tensor's entry.
#[derive(Clone, Debug)]
pub struct Info {
    /// The name, of any bytes.
    pub name: Vec<u8>,
    /// Dimensions, the row length first.
    pub dims: Vec<u64>,
    /// The count of dimensions to claim, where it is not that of `dims`.
    pub dim_count: Option<u32>,
    /// The number of the type.
    pub kind: u32,
    /// The offset to claim, where it is not the next aligned one.
    pub offset: Option<u64>,
}

impl Info {
    /// An F32 tensor.
    #[must_use]
    pub fn f32(name: &str, dims: &[u64]) -> Self {
        Self { name: name.into(), dims: dims.to_vec(), dim_count: None, kind: 0, offset: None }
    }

    /// Its bytes, as far as its type and dimensions are possible; 0 otherwise.
    fn byte_count(&self) -> u64 {
        let elements = self.dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        let quant = plan::QuantType::from_id(self.kind);
        quant.zip(elements).and_then(|(quant, elements)| quant.bytes(elements)).map_or(0, |bytes| bytes.0)
    }
}

/// A file to be written.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The version.
    pub version: u32,
    /// The count of entries to claim, where it is not the true one.
    pub entry_count: Option<u64>,
    /// The count of tensors to claim, where it is not the true one.
    pub tensor_count: Option<u64>,
    /// Metadata, in order; keys of any bytes.
    pub entries: Vec<(Vec<u8>, Field)>,
    /// Tensors, in order.
    pub tensors: Vec<Info>,
    /// The alignment that offsets are made with; set `general.alignment` as well.
    pub alignment: u64,
    /// Most bytes of tensor data that are written: a whole model may be of petabytes.
    pub data_max: u64,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            version: 3,
            entry_count: None,
            tensor_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data_max: 1 << 20,
        }
    }
}

impl Draft {
    /// Sets the first entry of this key, or adds one.
    pub fn set(&mut self, key: &str, field: Field) {
        match self.entries.iter_mut().find(|(name, _)| name == key.as_bytes()) {
            Some((_, old)) => *old = field,
            None => self.add(key, field),
        }
    }

    /// Adds an entry, even if there is one.
    pub fn add(&mut self, key: impl AsRef<[u8]>, field: Field) {
        self.entries.push((key.as_ref().to_vec(), field));
    }

    /// Removes all entries of this key.
    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|(name, _)| name != key.as_bytes());
    }

    /// The tensor of this name.
    ///
    /// # Panics
    /// Where there is none.
    pub fn tensor(&mut self, name: &str) -> &mut Info {
        let found = self.tensors.iter_mut().find(|info| info.name == name.as_bytes());
        found.expect("tests name tensors that they have drafted")
    }

    /// The header alone, up to the last tensor's entry.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, field) in &self.entries {
            out.extend(text_bytes(key));
            out.extend(field.kind.to_le_bytes());
            out.extend(&field.bytes);
        }
        let mut next = 0u64;
        for info in &self.tensors {
            out.extend(text_bytes(&info.name));
            out.extend(info.dim_count.unwrap_or(info.dims.len() as u32).to_le_bytes());
            info.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(info.kind.to_le_bytes());
            out.extend(info.offset.unwrap_or(next).to_le_bytes());
            next = next.saturating_add(info.byte_count()).checked_next_multiple_of(self.alignment).unwrap_or(next);
        }
        out
    }

    /// The whole file; its data are zeros.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        let align = |length: u64| length.next_multiple_of(self.alignment);
        let data =
            self.tensors.iter().map(Info::byte_count).fold(0u64, |sum, bytes| {
                sum.checked_next_multiple_of(self.alignment).unwrap_or(sum).saturating_add(bytes)
            });
        if !self.tensors.is_empty() {
            out.resize((align(out.len() as u64) + data.min(self.data_max)) as usize, 0);
        }
        out
    }
}

/// A sound dense model of one layer: width 32, 4 query and 2 KV heads, 8 tokens. 6 KiB.
#[must_use]
pub fn dense() -> Draft {
    let mut draft = Draft::default();
    draft.set("general.architecture", Field::text("llama"));
    draft.set("general.name", Field::text("Tiny"));
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        draft.set(&format!("llama.{key}"), Field::u32(value));
    }
    draft.set("llama.attention.layer_norm_rms_epsilon", Field::f32(1e-5));
    draft.set("llama.rope.freq_base", Field::f32(10_000.0));
    draft.set("tokenizer.ggml.model", Field::text("llama"));
    draft.set("tokenizer.ggml.tokens", Field::texts(&["<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "c", "d"]));
    draft.set("tokenizer.ggml.token_type", Field::i32s(&[2, 3, 3, 6, 1, 1, 1, 1]));
    draft.set("tokenizer.ggml.scores", Field::f32s(&[0.0; 8]));
    draft.set("tokenizer.ggml.bos_token_id", Field::u32(1));
    draft.set("tokenizer.ggml.eos_token_id", Field::u32(2));
    draft.tensors = vec![
        Info::f32("token_embd.weight", &[32, 8]),
        Info::f32("output_norm.weight", &[32]),
        Info::f32("blk.0.attn_norm.weight", &[32]),
        Info::f32("blk.0.attn_q.weight", &[32, 32]),
        Info::f32("blk.0.attn_k.weight", &[32, 16]),
        Info::f32("blk.0.attn_v.weight", &[32, 16]),
        Info::f32("blk.0.attn_output.weight", &[32, 32]),
        Info::f32("blk.0.ffn_norm.weight", &[32]),
        Info::f32("blk.0.ffn_gate.weight", &[32, 32]),
        Info::f32("blk.0.ffn_up.weight", &[32, 32]),
        Info::f32("blk.0.ffn_down.weight", &[32, 32]),
    ];
    draft
}

/// A sound mixture of 4 experts, 2 of them used, else as [`dense`].
#[must_use]
pub fn mixture() -> Draft {
    let mut draft = dense();
    draft.set("llama.expert_count", Field::u32(4));
    draft.set("llama.expert_used_count", Field::u32(2));
    draft.tensors.retain(|info| !info.name.starts_with(b"blk.0.ffn") || info.name.ends_with(b"norm.weight"));
    draft.tensors.push(Info::f32("blk.0.ffn_gate_inp.weight", &[32, 4]));
    for matrix in ["gate", "up", "down"] {
        draft.tensors.push(Info::f32(&format!("blk.0.ffn_{matrix}_exps.weight"), &[32, 32, 4]));
    }
    draft
}
