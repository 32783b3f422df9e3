//! What layers of the processor keep of a conversation, while a card computes their attention.
//!
//! A prompt that is streamed is computed by a card in all layers, whoever computes them in decode. For those whose cache lives in RAM the
//! card has one room for each shape that caches have. Rows so far are brought there before the layer's attention, new ones are taken down
//! behind it: 2 MiB of a layer of a 70B for 512 tokens, beside 500 MiB of weights. They arrive while the next layers are computed, and go
//! into the cache when their pinned memory is needed again, or at the pass's end.

use std::collections::VecDeque;
use std::ops::Range;

use kernels::cpu;
use kernels::cuda::{Arena, Download, Event, Gpu, KvStore, Pinned};
use plan::{Bytes, Device, KvPlan};

use super::{CardCache, Result};
use crate::route::Route;
use crate::session::{LayerCache, Memory};
use crate::spec::{Kind, Spec};

/// Bytes of a piece of pinned memory, and how many there are for each way.
const STEP: usize = 4 << 20;
const STEPS: usize = 2;

/// The rooms, and what is on its way.
pub(super) struct Guests {
    /// A cache of each shape; lent out while a layer uses it.
    rooms: Vec<(Shape, Option<CardCache>)>,
    up: [(Pinned<u8>, Event); STEPS],
    turn: usize,
    down: VecDeque<Arriving>,
    free: Vec<Pinned<u8>>,
}

/// Heads and widths of keys and of values; none where keys serve as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    keys: (usize, usize),
    values: Option<(usize, usize)>,
}

/// Rows of a layer's keys or values that come down.
struct Arriving {
    layer: usize,
    values: bool,
    positions: Range<usize>,
    download: Download<u8>,
}

impl Shape {
    fn of(kind: &Kind) -> Option<Self> {
        match kind {
            Kind::Heads(h) => Some(Self { keys: (h.kv_heads, h.k_dim), values: Some((h.kv_heads, h.v_dim)) }),
            Kind::Latent(l) => Some(Self { keys: (1, l.sizes.rank + l.sizes.rotated), values: None }),
            Kind::Delta(_) => None,
        }
    }

    fn of_room(room: &CardCache) -> Self {
        let shape = |store: &KvStore| (store.heads(), store.dim());
        Self { keys: shape(&room.keys), values: room.values.as_ref().map(shape) }
    }

    fn bytes(self, kv: &KvPlan) -> Bytes {
        let store = |kind, (heads, dim)| KvStore::bytes(kind, heads, dim, kv.tokens as usize);
        store(kv.k_type, self.keys) + self.values.map_or(Bytes::ZERO, |values| store(kv.v_type, values))
    }

    fn room(self, arena: &mut Arena, kv: &KvPlan) -> Result<CardCache> {
        let mut store = |kind, (heads, dim)| KvStore::new(arena, kind, heads, dim, kv.tokens as usize);
        let keys = store(kv.k_type, self.keys)?;
        Ok(CardCache { keys, values: self.values.map(|values| store(kv.v_type, values)).transpose()? })
    }
}

impl Guests {
    /// Takes rooms on a card for the layers of `spec` that may come there, if any may.
    pub(super) fn of(gpu: &Gpu, spec: &Spec, kv: &KvPlan, route: &Route) -> Result<Option<Self>> {
        let card = Some(gpu.info().ordinal);
        let mut shapes: Vec<Shape> = Vec::new();
        for (index, layer) in spec.layers.iter().enumerate() {
            if route.streamed_to(index)[0] == card && route.layers[index].attention == Device::Cpu {
                shapes.extend(Shape::of(&layer.attention.kind).filter(|shape| !shapes.contains(shape)));
            }
        }
        if shapes.is_empty() {
            return Ok(None);
        }
        let mut arena = Arena::new(gpu, "passing caches", shapes.iter().map(|shape| shape.bytes(kv)).sum())?;
        let room = |shape: Shape| Ok((shape, Some(shape.room(&mut arena, kv)?)));
        let up = || Ok::<_, crate::EngineError>((Pinned::new(gpu, STEP)?, Event::new(gpu)?));
        Ok(Some(Self {
            rooms: shapes.into_iter().map(room).collect::<Result<_>>()?,
            up: [up()?, up()?],
            turn: 0,
            down: VecDeque::with_capacity(STEPS),
            free: (0..STEPS).map(|_| Pinned::new(gpu, STEP)).collect::<std::result::Result<_, _>>()?,
        }))
    }

    /// Starts a pass, perhaps after one that failed: what that one took down is nobody's.
    pub(super) fn begin(&mut self) -> Result<()> {
        while let Some(arriving) = self.down.pop_front() {
            self.free.push(arriving.download.wait()?);
        }
        Ok(())
    }

    /// Brings a layer's cache, of which `positions` are filled.
    pub(super) fn bring(&mut self, gpu: &Gpu, kind: &Kind, cache: &LayerCache, positions: usize) -> Result<Memory> {
        let Some(shape) = Shape::of(kind) else { unreachable!("a state is no guest") };
        let room = self.rooms.iter_mut().find(|(known, _)| *known == shape).and_then(|(_, room)| room.take());
        let Some(mut room) = room else { unreachable!("{NO_ROOM}") };
        let filled = self.fill(gpu, &cache.keys, &mut room.keys, positions).and_then(|()| {
            let values = cache.values.as_ref().zip(room.values.as_mut());
            values.map_or(Ok(()), |(from, to)| self.fill(gpu, from, to, positions))
        });
        match filled {
            Ok(()) => Ok(Memory::Card(room)),
            Err(error) => {
                self.put_back(room);
                Err(error)
            }
        }
    }

    fn fill(&mut self, gpu: &Gpu, from: &cpu::KvStore, to: &mut KvStore, positions: usize) -> Result<()> {
        for positions in steps(0..positions, from.packed(1)) {
            let (pinned, copied) = &mut self.up[self.turn % STEPS];
            self.turn += 1;
            copied.synchronize()?;
            let bytes = from.packed(positions.len());
            from.pack(positions.clone(), &mut pinned[..bytes]);
            to.bring(gpu.compute(), positions, pinned.part(..bytes))?;
            copied.record(gpu.compute())?;
        }
        Ok(())
    }

    /// Takes the rows of `positions` of a layer's cache back, behind what was computed with it. They are in `layers` after
    /// [`settle`](Self::settle).
    pub(super) fn take_back(
        &mut self,
        gpu: &Gpu,
        layer: usize,
        room: Memory,
        positions: Range<usize>,
        layers: &mut [Memory],
    ) -> Result<()> {
        let Memory::Card(room) = room else { unreachable!("{NO_ROOM}") };
        let mut taken = Ok(());
        for (values, store) in
            std::iter::once((false, &room.keys)).chain(room.values.as_ref().map(|store| (true, store)))
        {
            for positions in steps(positions.clone(), store.packed(1)) {
                taken = taken.and_then(|()| self.take_down(gpu, store, (layer, values, positions), layers));
            }
        }
        self.put_back(room);
        taken
    }

    fn take_down(
        &mut self,
        gpu: &Gpu,
        store: &KvStore,
        (layer, values, positions): (usize, bool, Range<usize>),
        layers: &mut [Memory],
    ) -> Result<()> {
        if self.free.is_empty() {
            self.settle_first(layers)?;
        }
        let pinned = match self.free.pop() {
            Some(pinned) => pinned,
            // The last one went with a copy that failed.
            None => Pinned::new(gpu, STEP)?,
        };
        let download = store.take_down(gpu.compute(), positions.clone(), pinned)?;
        self.down.push_back(Arriving { layer, values, positions, download });
        Ok(())
    }

    fn put_back(&mut self, room: CardCache) {
        let shape = Shape::of_room(&room);
        let place = self.rooms.iter_mut().find(|(known, _)| *known == shape);
        let Some((_, place)) = place else { unreachable!("{NO_ROOM}") };
        *place = Some(room);
    }

    /// Waits for everything that comes down.
    pub(super) fn settle(&mut self, layers: &mut [Memory]) -> Result<()> {
        while !self.down.is_empty() {
            self.settle_first(layers)?;
        }
        Ok(())
    }

    fn settle_first(&mut self, layers: &mut [Memory]) -> Result<()> {
        let Some(Arriving { layer, values, positions, download }) = self.down.pop_front() else { return Ok(()) };
        let pinned = download.wait()?;
        let Memory::Cache(cache) = &mut layers[layer] else { unreachable!("guests come from RAM") };
        let store = if values { cache.values.as_mut() } else { Some(&mut cache.keys) };
        if let Some(store) = store {
            let bytes = store.packed(positions.len());
            store.unpack(positions, &pinned[..bytes]);
        }
        self.free.push(pinned);
        Ok(())
    }
}

const NO_ROOM: &str = "there is a room for each shape of layers that come";

/// Positions whose rows fit a piece of pinned memory, of `row` bytes each.
fn steps(positions: Range<usize>, row: usize) -> impl Iterator<Item = Range<usize>> {
    let most = (STEP / row.max(1)).max(1);
    positions.clone().step_by(most).map(move |first| first..positions.end.min(first + most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_in_steps_that_fit_pinned_memory() {
        let all = |positions, row| steps(positions, row).collect::<Vec<_>>();
        for (positions, row, expected) in [
            (3..3, 100, vec![]),
            (5..8, STEP, vec![5..6, 6..7, 7..8]),
            (100..4200, 2048, vec![100..2148, 2148..4196, 4196..4200]),
            (100..2148, 2048, vec![100..2148; 1]),
        ] {
            assert_eq!(all(positions.clone(), row), expected, "{positions:?}");
        }
    }
}
