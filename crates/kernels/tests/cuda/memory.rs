//! Ceilings, arenas, and copies from every kind of memory.

use std::sync::Arc;

use kernels::cuda::{Arena, CudaError, DeviceBuffer, Download, Event, Gpu, Pinned, Registered, RegisteredParts};
use kernels::memory::Buffer;
use plan::Bytes;

use crate::card::{download, gpu, upload};
use crate::common::Draw;

#[test]
fn a_ceiling_refuses_before_the_driver_is_asked() {
    let Some(shared) = gpu() else { return };
    // A card of its own, so that no other test's bytes count.
    let gpu = Gpu::open(0, shared.used() + Bytes(64 << 20)).unwrap();
    let own = gpu.used();
    assert!(own > Bytes::ZERO, "the driver takes something for itself");
    let small = DeviceBuffer::<u8>::new(&gpu, "a byte", 1).unwrap();
    assert_eq!(gpu.used(), own + Bytes(2 << 20), "a granule for a byte");
    let error = DeviceBuffer::<u8>::new(&gpu, "too much", 1 << 40).unwrap_err();
    assert!(matches!(error, CudaError::OverCeiling { ordinal: 0, .. }), "{error}");
    let peak = gpu.peak();
    drop(small);
    assert_eq!((gpu.used(), gpu.peak()), (own, peak));
}

#[test]
fn an_arena_hands_out_what_it_has_and_no_more() {
    let Some(gpu) = gpu() else { return };
    let mut arena = Arena::new(gpu, "a test", Bytes(1 << 20)).unwrap();
    assert_eq!(arena.left(), Bytes((2 << 20) - 256), "a word behind the last may be read");
    let mut parts: Vec<DeviceBuffer<u32>> = (0..8).map(|_| arena.take(1000).unwrap()).collect();
    for (i, part) in parts.iter_mut().enumerate() {
        gpu.compute().fill(&mut part.slice_mut(), i as u8).unwrap();
    }
    for (i, part) in parts.iter().enumerate() {
        assert_eq!(download(gpu, part.slice()), vec![0x0101_0101 * i as u32; 1000], "parts do not overlap");
    }
    assert!(matches!(arena.take::<u8>(3 << 20), Err(CudaError::OverCeiling { .. })));
}

#[test]
fn bytes_arrive_from_pinned_registered_and_plain_memory() {
    let Some(gpu) = gpu() else { return };
    let bytes: Vec<u8> = Draw(9).numbers(1 << 20).iter().map(|x| x.to_bits() as u8).collect();
    let mut pinned = Pinned::<u8>::new(gpu, bytes.len()).unwrap();
    pinned.copy_from_slice(&bytes);
    let mut buffer = Buffer::try_new(bytes.len()).unwrap();
    buffer.copy_from_slice(&bytes);
    let registered = Registered::new(gpu, Arc::new(buffer)).unwrap();
    let mut to = DeviceBuffer::<u8>::new(gpu, "a test", bytes.len()).unwrap();
    assert_eq!(registered.len(), bytes.len());
    for part in [pinned.part(..), registered.part(..)] {
        gpu.compute().fill(&mut to.slice_mut(), 0xff).unwrap();
        gpu.synchronize().unwrap();
        let arrived = Event::new(gpu).unwrap();
        gpu.copies().upload(part, &mut to.slice_mut()).unwrap();
        arrived.record(gpu.copies()).unwrap();
        gpu.compute().wait(&arrived).unwrap();
        let back = Download::start(gpu.compute(), to.slice(), Pinned::new(gpu, bytes.len()).unwrap()).unwrap();
        assert!(back.wait().unwrap()[..] == bytes[..]);
    }
    // The pages are registered already, which the driver refuses.
    let (again, refusal) = Registered::in_parts(gpu, Arc::clone(registered.buffer()), 100_000).unwrap();
    assert!(refusal.is_some() && again.is_empty());
    assert!(download(gpu, upload(gpu, &bytes[5..]).slice().range(3..77)) == bytes[8..82]);
}

#[test]
fn buffers_side_by_side_are_registered_together_and_no_others() {
    let Some(gpu) = gpu() else { return };
    let mut buffers = Buffer::try_parts(70_000, 3).unwrap();
    let apart = Buffer::try_parts(70_000, 1).unwrap();
    let registered = RegisteredParts::new(gpu, &buffers[1]).unwrap();
    assert!(RegisteredParts::new(gpu, &buffers[0]).is_err(), "the pages are registered already");
    assert!(registered.part(&apart[0], 0..1).is_none());
    let mut to = DeviceBuffer::<u8>::new(gpu, "a test", 60_000).unwrap();
    for (index, buffer) in buffers.iter_mut().enumerate() {
        buffer.fill(index as u8 + 1);
        let part = registered.part(buffer, 5_000..65_000).unwrap();
        gpu.copies().upload(part, &mut to.slice_mut()).unwrap();
        gpu.synchronize().unwrap();
        assert!(download(gpu, to.slice()).iter().all(|byte| *byte == index as u8 + 1));
    }
    // Whoever drops buffers that a card may be reading leaves them where they are.
    drop(buffers);
    drop(registered);
}

#[test]
fn what_was_registered_in_parts_is_copied_in_parts() {
    let Some(gpu) = gpu() else { return };
    let bytes: Vec<u8> = Draw(4).numbers(1 << 20).iter().map(|x| x.to_bits() as u8).collect();
    let mut buffer = Buffer::try_new(bytes.len()).unwrap();
    buffer.copy_from_slice(&bytes);
    let (registered, refusal) = Registered::in_parts(gpu, Arc::new(buffer), 100_000).unwrap();
    assert!(refusal.is_none() && registered.len() == bytes.len(), "{refusal:?}");
    let range = 5..900_000;
    let mut to = DeviceBuffer::<u8>::new(gpu, "a test", range.len()).unwrap();
    let (mut start, mut parts) = (0, 0);
    for part in registered.parts(range.clone()) {
        gpu.copies().upload(part, &mut to.slice_mut().range(start..start + part.len())).unwrap();
        (start, parts) = (start + part.len(), parts + 1);
    }
    // Pages are whole: 102,400 bytes.
    assert_eq!((start, parts), (range.len(), 9));
    gpu.synchronize().unwrap();
    assert!(download(gpu, to.slice()) == bytes[range]);
    assert_eq!(registered.parts(7..7).count(), 0);
}
