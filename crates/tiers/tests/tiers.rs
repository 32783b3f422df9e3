//! Whatever a unit's home, and whatever the drive does, a lease holds the bytes of the file or an error says why not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::memory::{ByteSource, Fault, FaultySource};
use plan::{
    Bytes, Device, Forecast, Inventory, KvPlan, KvType, ModelFile, ModelShape, Placement, Plan, QuantType, Role,
    Staging, Tensor, Tier, Unit, UnitId, VocabularySize,
};
use tiers::{RowSlice, TierError, Tiers};

/// Rows of each unit, all rows being eight floats long. A page of nothing in front keeps offsets from being zero.
const ROWS: [u64; 5] = [40, 1, 7, 64, 3];
const ROW_BYTES: u64 = 32;
const START: u64 = 100;

struct Memory(Vec<u8>);

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
}

fn file() -> Vec<u8> {
    let length = START + ROWS.iter().sum::<u64>() * ROW_BYTES;
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn inventory() -> Inventory {
    let mut offset = START;
    let tensors = ROWS.iter().enumerate().map(|(i, rows)| {
        let bytes = Bytes(rows * ROW_BYTES);
        let tensor =
            Tensor { name: format!("t{i}"), quant: QuantType::F32, dims: vec![8, *rows], file: 0, offset, bytes };
        offset += bytes.0;
        tensor
    });
    let tensors: Vec<Tensor> = tensors.collect();
    let unit = |(i, tensor): (usize, &Tensor)| Unit {
        tensor: i as u32,
        role: Role::Attention,
        layer: Some(0),
        expert: None,
        rows: tensor.rows(),
        offset: tensor.offset,
        bytes: tensor.bytes,
    };
    let units = tensors.iter().enumerate().map(unit).collect();
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
        indexer_per_token: Vec::new(),
        experts: 0,
        experts_used: 0,
    };
    let files = vec![ModelFile { path: "model.gguf".into(), bytes: Bytes(file().len() as u64) }];
    Inventory { name: "test".into(), files, shape, vocabulary: VocabularySize::default(), tensors, units }
}

/// The first units on disk, as `on_disk` says; the others in RAM.
fn plan(on_disk: [bool; 5], slot: u64) -> Plan {
    let placement = |disk: bool| Placement {
        home: if disk { Tier::Disk } else { Tier::Ram },
        decode: Device::Cpu,
        prefill: Device::Cpu,
        reason: String::new(),
    };
    let kv = KvPlan { tokens: 8, k_type: KvType::F32, v_type: KvType::F32, home: Tier::Ram, bytes: Bytes::ZERO };
    Plan {
        tiers: Vec::new(),
        placements: on_disk.map(placement).to_vec(),
        kv,
        staging: Staging { slot: Bytes(slot), slots: 2 },
        micro_batch: 1,
        threads: 1,
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

fn order() -> Vec<RowSlice> {
    (0u32..).zip(ROWS).map(|(unit, rows)| RowSlice { unit: UnitId(unit), rows: 0..rows }).collect()
}

fn open(on_disk: [bool; 5], slot: u64, source: impl ByteSource + 'static) -> Result<Tiers, TierError> {
    Tiers::open(&plan(on_disk, slot), &inventory(), vec![Arc::new(source)], &order(), &mut |_, _| {})
}

/// All bytes of `slice`, lease by lease.
fn read(tiers: &mut Tiers, slice: &RowSlice) -> Result<Vec<u8>, TierError> {
    let mut bytes = Vec::new();
    for piece in tiers.pieces(slice) {
        bytes.extend_from_slice(&tiers.lease(&piece)?);
    }
    Ok(bytes)
}

fn expected(slice: &RowSlice) -> Vec<u8> {
    let unit = &inventory().units[slice.unit.0 as usize];
    let rows = slice.rows.start * ROW_BYTES..slice.rows.end * ROW_BYTES;
    file()[(unit.offset + rows.start) as usize..(unit.offset + rows.end) as usize].to_vec()
}

const DISK: [bool; 5] = [true; 5];
const MIXED: [bool; 5] = [true, false, false, true, true];

#[test]
fn every_pass_gives_the_bytes_of_the_file_from_any_home() {
    for on_disk in [[false; 5], MIXED, DISK] {
        for slot in [32, 100, 1 << 20] {
            let mut tiers = open(on_disk, slot, Memory(file())).unwrap();
            for _ in 0..3 {
                for slice in order() {
                    assert_eq!(read(&mut tiers, &slice).unwrap(), expected(&slice), "{on_disk:?} {slot} {slice:?}");
                }
            }
        }
    }
}

#[test]
fn pieces_fit_a_slot_and_cover_each_row_once() {
    let tiers = open(DISK, 100, Memory(file())).unwrap();
    let pieces: Vec<_> = tiers.pieces(&order()[0]).collect();
    assert!(pieces.iter().all(|piece| piece.bytes() <= 100));
    let rows: Vec<u64> = pieces.iter().flat_map(|piece| piece.rows.clone()).collect();
    assert_eq!(rows, (0..40).collect::<Vec<_>>());
}

#[test]
fn uses_out_of_order_are_served_too() {
    let mut tiers = open(DISK, 64, Memory(file())).unwrap();
    for unit in [3, 3, 0, 4, 2, 1, 0, 0, 3] {
        let slice = &order()[unit];
        assert_eq!(read(&mut tiers, slice).unwrap(), expected(slice), "unit {unit}");
    }
}

#[test]
fn rows_are_gathered_one_by_one_from_any_home() {
    for on_disk in [[false; 5], DISK] {
        let mut tiers = open(on_disk, 64, Memory(file())).unwrap();
        let mut row = [0; ROW_BYTES as usize];
        for index in [39, 0, 17] {
            tiers.gather(UnitId(0), index, &mut row).unwrap();
            assert_eq!(row[..], expected(&RowSlice { unit: UnitId(0), rows: index..index + 1 })[..]);
        }
    }
}

#[test]
fn a_storm_of_short_and_interrupted_reads_changes_no_byte() {
    for seed in 0..50 {
        let mut tiers = open(MIXED, 96, FaultySource::seeded(Memory(file()), seed)).unwrap();
        for slice in order().iter().chain(&order()) {
            assert_eq!(read(&mut tiers, slice).unwrap(), expected(slice), "seed {seed}");
        }
    }
}

/// A source that fails every read while it is told to.
struct Switched(Memory, Arc<AtomicBool>);

impl ByteSource for Switched {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.1.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(5)) } else { self.0.read_at(offset, buf) }
    }
}

#[test]
fn a_failed_drive_fails_the_request_and_serves_the_next() {
    let broken = Arc::new(AtomicBool::new(false));
    let mut tiers = open(DISK, 64, Switched(Memory(file()), Arc::clone(&broken))).unwrap();
    read(&mut tiers, &order()[0]).unwrap();
    broken.store(true, Ordering::Relaxed);
    let error = order().iter().cycle().take(20).find_map(|slice| read(&mut tiers, slice).err()).unwrap();
    assert!(matches!(&error, TierError::Read { path, .. } if path == "model.gguf"), "{error}");
    broken.store(false, Ordering::Relaxed);
    for slice in order() {
        assert_eq!(read(&mut tiers, &slice).unwrap(), expected(&slice));
    }
}

#[test]
fn a_file_that_is_cut_while_in_use_is_an_error() {
    let mut tiers = open(DISK, 64, FaultySource::truncated(Memory(file()), START + 64)).unwrap();
    let error = read(&mut tiers, &order()[0]).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("ended"), "{error}");
}

#[test]
fn a_device_error_while_loading_is_an_error() {
    let result = open([false; 5], 64, FaultySource::scheduled(Memory(file()), &[Fault::Device]));
    assert!(matches!(result, Err(TierError::Read { .. })));
}

#[test]
fn a_row_longer_than_a_slot_is_refused() {
    let result = open(DISK, 31, Memory(file()));
    assert!(matches!(result, Err(TierError::RowTooLong { tensor, .. }) if tensor == "t0"));
}

#[test]
fn counts_say_what_came_from_where() {
    let mut tiers = open(MIXED, 64, Memory(file())).unwrap();
    for slice in order() {
        read(&mut tiers, &slice).unwrap();
    }
    let counts = tiers.counts();
    assert_eq!(counts.ram_bytes, (1 + 7) * ROW_BYTES);
    assert_eq!(counts.disk_bytes, (40 + 64 + 3) * ROW_BYTES);
}

#[test]
fn tiers_close_while_their_reader_is_ahead() {
    for _ in 0..200 {
        let mut tiers = open(DISK, 32, Memory(file())).unwrap();
        let piece = tiers.pieces(&order()[0]).next().unwrap();
        drop(tiers.lease(&piece).unwrap());
    }
}
