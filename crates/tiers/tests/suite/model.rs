//! A model of two files and eight units, four of which are experts inside one tensor.

use std::io;
use std::sync::Arc;

use kernels::memory::ByteSource;
use plan::{
    Bytes, Device, Forecast, Inventory, KvPlan, KvType, ModelFile, ModelShape, Placement, Plan, QuantType, Role,
    Staging, Tensor, Tier, Unit, UnitId, VocabularySize,
};
use tiers::{RowSlice, TierError, Tiers};

/// All rows are eight floats long.
pub(crate) const ROW_BYTES: u64 = 32;
/// Rows of each unit.
pub(crate) const ROWS: [u64; 8] = [40, 1, 7, 16, 16, 16, 16, 3];
/// The file, the units and the first byte of each tensor. Something in front keeps offsets from being zero.
const TENSORS: [(u32, std::ops::Range<usize>, u64); 5] =
    [(0, 0..1, 100), (0, 1..2, 1380), (1, 2..3, 52), (1, 3..7, 276), (1, 7..8, 2324)];
const PATHS: [&str; 2] = ["model-1.gguf", "model-2.gguf"];

/// Which units are on disk; the others are in RAM.
pub(crate) type OnDisk = [bool; 8];
pub(crate) const RAM: OnDisk = [false; 8];
pub(crate) const DISK: OnDisk = [true; 8];
pub(crate) const MIXED: OnDisk = [true, false, false, true, false, true, true, true];

/// A file, and the drive that it lies on.
pub(crate) struct Memory(Vec<u8>, u64);

impl ByteSource for Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = &self.0[(offset as usize).min(self.0.len())..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn drive(&self) -> u64 {
        self.1
    }
}

/// A file of the model, each on a drive of its own: the first ends with tensor 1, the second with tensor 4.
pub(crate) fn file(index: usize) -> Memory {
    let length = [1412, 2420][index];
    let bytes = (0..length).map(|i: u64| ((i + 7919 * index as u64).wrapping_mul(2_654_435_761) >> 7) as u8);
    Memory(bytes.collect(), index as u64)
}

pub(crate) fn inventory() -> Inventory {
    let tensor = |(i, (file, units, offset)): (usize, &(u32, std::ops::Range<usize>, u64))| {
        let rows: u64 = ROWS[units.clone()].iter().sum();
        let (name, bytes) = (format!("t{i}"), Bytes(rows * ROW_BYTES));
        Tensor { name, quant: QuantType::F32, dims: vec![8, rows], file: *file, offset: *offset, bytes }
    };
    let units = TENSORS.iter().enumerate().flat_map(|(tensor, (_, units, offset))| {
        let mut offset = *offset;
        units.clone().map(move |unit| {
            let bytes = Bytes(ROWS[unit] * ROW_BYTES);
            offset += bytes.0;
            let expert = (units.len() > 1).then(|| (unit - units.start) as u32);
            let role = if expert.is_some() { Role::RoutedExpert } else { Role::Attention };
            let offset = offset - bytes.0;
            Unit { tensor: tensor as u32, role, layer: Some(0), expert, rows: ROWS[unit], offset, bytes }
        })
    });
    let shape = ModelShape {
        architecture: "test".into(),
        layers: 1,
        embedding: 8,
        heads: 1,
        feed_forward: 8,
        vocabulary: 8,
        context_train: 8,
        kv_per_token: vec![(8, 8)],
        kv_row: (8, 8),
        latent: None,
        indexer_per_token: Vec::new(),
        delta: None,
        experts: 4,
        experts_used: 2,
    };
    let files = PATHS.iter().enumerate();
    Inventory {
        name: "test".into(),
        files: files.map(|(i, path)| ModelFile { path: (*path).into(), bytes: Bytes(file(i).len()) }).collect(),
        shape,
        vocabulary: VocabularySize::default(),
        tensors: TENSORS.iter().enumerate().map(tensor).collect(),
        units: units.collect(),
    }
}

/// A plan with these homes and a ring of `slots` slots of `slot` bytes.
pub(crate) fn plan(on_disk: OnDisk, slot: u64, slots: u32) -> Plan {
    let placement = |disk: bool| Placement {
        home: if disk { Tier::Disk } else { Tier::Ram },
        decode: Device::Cpu,
        prefill: Device::Cpu,
        exchanges: false,
        reason: "".into(),
    };
    let kv = KvPlan { tokens: 8, k_type: KvType::F32, v_type: KvType::F32, homes: Vec::new(), bytes: Bytes::ZERO };
    Plan {
        tiers: Vec::new(),
        placements: on_disk.map(placement).to_vec(),
        blocks: Vec::new(),
        output: Device::Cpu,
        kv,
        staging: Staging { slot: Bytes(slot), slots },
        device_staging: Vec::new(),
        disk_reads: plan::Reads::USUAL,
        stream_from: None,
        cpu_experts: 0,
        fetch: None,
        foresee: 0,
        exchange: plan::expert_cache::Policy::USUAL,
        micro_batch: 1,
        logits: plan::Logits::Every,
        threads: 1,
        scheme: plan::Scheme::ByUse,
        forecast: Forecast {
            prompt_tokens_per_s: 0.0,
            decode_tokens_per_s: 0.0,
            time_to_first_token_s: 0.0,
            load_s: 0.0,
            measured: false,
        },
        notes: Vec::new(),
    }
}

/// Tiers over the two files, each as `source` wraps it.
pub(crate) fn open<S: ByteSource + 'static>(plan: &Plan, source: impl Fn(Memory) -> S) -> Result<Tiers, TierError> {
    let sources = [0, 1].map(|i| Arc::new(source(file(i))) as Arc<dyn ByteSource>);
    Tiers::open(plan, &inventory(), sources.to_vec(), &mut |_, _| {})
}

/// Rows of a unit.
pub(crate) fn slice(unit: u32, rows: std::ops::Range<u64>) -> RowSlice {
    RowSlice { unit: UnitId(unit), rows }
}

/// All rows of a unit.
pub(crate) fn whole(unit: u32) -> RowSlice {
    slice(unit, 0..ROWS[unit as usize])
}

/// What the files have there.
pub(crate) fn truth(slice: &RowSlice) -> Vec<u8> {
    let inventory = inventory();
    let unit = inventory.unit(slice.unit);
    let file = file(inventory.tensor_of(unit).file as usize).0;
    let rows = slice.rows.start * ROW_BYTES..slice.rows.end * ROW_BYTES;
    file[(unit.offset + rows.start) as usize..(unit.offset + rows.end) as usize].to_vec()
}

/// All bytes of what is expected already, lease by lease.
pub(crate) fn lease(tiers: &mut Tiers, slice: &RowSlice) -> Result<Vec<u8>, TierError> {
    let mut bytes = Vec::new();
    for piece in tiers.pieces(slice) {
        bytes.extend_from_slice(&tiers.lease(&piece)?);
    }
    Ok(bytes)
}

/// All bytes of what is expected now.
pub(crate) fn read(tiers: &mut Tiers, slice: &RowSlice) -> Result<Vec<u8>, TierError> {
    tiers.expect(slice)?;
    lease(tiers, slice)
}
