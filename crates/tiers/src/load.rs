//! Reading units from their files into their homes, whatever a home is made of.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope};

use kernels::memory::{Buffer, ByteSource, Landed, Queue, Reading, read_exact_at};
use plan::{Bytes, Inventory, Plan, Tier, Unit};

use crate::TierError;
use crate::drives::Drives;

/// Units are read in pieces of this size, so that progress is seen and little page cache is caused.
#[cfg(feature = "cuda")]
pub(crate) const READ: usize = 8 << 20;

/// Bytes of one range of [`Loader::read_all`], and how many are under way: enough to keep a drive busy while one is copied, and less
/// than the activations that will take their place.
const RANGE: usize = 1 << 20;
const RANGES: usize = 8;
/// Threads that copy what has landed, at most. Memory that is new to a process is given to it page by page as it is written: 3 GB/s for one thread
/// at best, and 0.5 to 1.3 GB/s in a virtual machine whose host has taken it back meanwhile, where two threads get twice as much.
const COPIERS: usize = 4;

/// By unit: where it starts in its home and how long it is, if it is there.
pub(crate) type Starts = Vec<Option<(usize, usize)>>;

/// Where the units of `home` lie side by side, each at a multiple of `align`, and where the last ends. They are in the order of files, but for the matrices of each
/// routed expert, which lie together: what is copied to a card as a whole is one range then.
pub(crate) fn layout(plan: &Plan, inventory: &Inventory, home: Tier, align: u64) -> (Starts, u64) {
    let mut first_of_layer = BTreeMap::new();
    let mut order: Vec<_> = inventory.iter().filter(|(id, _)| plan.home(*id) == home).enumerate().collect();
    order.sort_by_cached_key(|(turn, (_, unit))| match (unit.layer, unit.expert) {
        (Some(layer), Some(expert)) => (*first_of_layer.entry(layer).or_insert(*turn), expert, *turn),
        _ => (*turn, 0, 0),
    });
    let (mut starts, mut end) = (vec![None; inventory.units.len()], 0u64);
    for (_, (id, unit)) in order {
        starts[id.0 as usize] = Some((end as usize, unit.bytes.0 as usize));
        end = (end + unit.bytes.0).next_multiple_of(align);
    }
    (starts, end)
}

/// Reads units piece by piece and says how far it has come.
pub(crate) struct Loader<'a> {
    inventory: &'a Inventory,
    sources: &'a [Arc<dyn ByteSource>],
    progress: &'a mut dyn FnMut(Bytes, Bytes),
    done: u64,
    total: u64,
}

impl<'a> Loader<'a> {
    /// To load what `plan` homes elsewhere than on disk.
    pub(crate) fn new(
        plan: &Plan,
        inventory: &'a Inventory,
        sources: &'a [Arc<dyn ByteSource>],
        progress: &'a mut dyn FnMut(Bytes, Bytes),
    ) -> Self {
        let loaded = inventory.iter().filter(|(id, _)| plan.home(*id) != Tier::Disk);
        let total = loaded.map(|(_, unit)| unit.bytes.0).sum();
        Self { inventory, sources, progress, done: 0, total }
    }

    /// Reads the bytes of `unit` on their way to a card from `start` on.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for units on their way to a card"))]
    pub(crate) fn read(&mut self, unit: &Unit, start: usize, into: &mut [u8]) -> Result<(), TierError> {
        let file = self.inventory.tensor_of(unit).file as usize;
        let (offset, length) = (unit.offset + start as u64, into.len() as u64);
        read_exact_at(self.sources[file].as_ref(), offset, into)
            .map_err(|source| TierError::Read { path: self.inventory.files[file].path.clone(), source })?;
        self.sources[file].forget(offset, length);
        self.done += length;
        (self.progress)(Bytes(self.done), Bytes(self.total));
        Ok(())
    }

    /// Reads every unit that has a place in `home` there, many ranges at once, of all drives side by side, in the order of files.
    pub(crate) fn read_all(&mut self, drives: &mut Drives, starts: &Starts, home: &mut [u8]) -> Result<(), TierError> {
        let inventory = self.inventory;
        let mut rest = self.by_drive(drives, starts, home);
        let room = Queue::room(RANGE);
        let memory = |source| TierError::Memory { what: "loading", bytes: Bytes((RANGES * room) as u64), source };
        let mut free = Buffer::try_parts(room, RANGES).map_err(memory)?;
        let mut places = BTreeMap::new();
        let mut landed = Vec::new();
        thread::scope(|scope| {
            let mut copiers = Copiers::start(scope);
            loop {
                free.extend(copiers.done.try_iter());
                while let Some(buffer) = free.pop() {
                    let waiting = (0..rest.len()).filter(|drive| !rest[*drive].is_empty());
                    let Some(drive) = waiting.min_by_key(|drive| drives.under_way_on(*drive)) else {
                        free.push(buffer);
                        break;
                    };
                    let Some(Part { source, offset, start, to }) = next_range(&mut rest[drive]) else { break };
                    let length = to.len();
                    places.insert(start as u64, to);
                    drives.add(Reading { tag: start as u64, source, offset, length, buffer });
                }
                if drives.under_way() == 0 {
                    if free.len() == RANGES {
                        return Ok(());
                    }
                    // What is being copied may be room for more.
                    free.extend(copiers.done.recv());
                    continue;
                }
                drives.step(0, &mut landed).map_err(|_| TierError::ReaderGone)?;
                for Landed { tag, source, buffer, range, outcome } in landed.drain(..) {
                    let path = &inventory.files[source].path;
                    outcome.map_err(|source| TierError::Read { path: path.clone(), source })?;
                    self.done += range.len() as u64;
                    (self.progress)(Bytes(self.done), Bytes(self.total));
                    match places.remove(&tag) {
                        Some(to) => copiers.copy(Copy { buffer, range, to }),
                        None => free.push(buffer),
                    }
                }
            }
        })
    }

    /// What is to be read of each drive, and its place.
    fn by_drive<'h>(&self, drives: &Drives, starts: &Starts, home: &'h mut [u8]) -> Vec<VecDeque<Part<'h>>> {
        let units = self.inventory.iter().zip(starts);
        let mut places: Vec<_> = units.filter_map(|((id, unit), place)| Some((place.as_ref()?, id, unit))).collect();
        places.sort_unstable_by_key(|(place, ..)| **place);
        let (mut home, mut before) = (home, 0);
        let mut cut = Vec::with_capacity(places.len());
        for ((start, length), id, unit) in places.into_iter().filter(|((_, length), ..)| *length > 0) {
            let to;
            (to, home) = std::mem::take(&mut home)[start - before..].split_at_mut(*length);
            before = start + length;
            let source = self.inventory.tensor_of(unit).file as usize;
            cut.push((id, Part { source, offset: unit.offset, start: *start, to }));
        }
        cut.sort_unstable_by_key(|(id, _)| *id);
        let mut parts: Vec<_> = (0..drives.count()).map(|_| VecDeque::new()).collect();
        for (_, part) in cut {
            parts[drives.of(part.source)].push_back(part);
        }
        parts
    }
}

/// Bytes of a file, and their place.
struct Part<'a> {
    source: usize,
    offset: u64,
    /// Where the place starts in the home.
    start: usize,
    to: &'a mut [u8],
}

/// Takes the next range away.
fn next_range<'a>(parts: &mut VecDeque<Part<'a>>) -> Option<Part<'a>> {
    let first = parts.front_mut()?;
    if first.to.len() <= RANGE {
        return parts.pop_front();
    }
    let (to, rest) = std::mem::take(&mut first.to).split_at_mut(RANGE);
    let range = Part { to, ..*first };
    (first.offset, first.start, first.to) = (first.offset + RANGE as u64, first.start + RANGE, rest);
    Some(range)
}

/// What has landed, and its place.
struct Copy<'a> {
    buffer: Buffer,
    range: Range<usize>,
    to: &'a mut [u8],
}

/// Threads that copy, in turn; they end with this.
struct Copiers<'a> {
    threads: Vec<mpsc::Sender<Copy<'a>>>,
    next: usize,
    /// Buffers whose bytes are in their place.
    done: mpsc::Receiver<Buffer>,
    finished: mpsc::Sender<Buffer>,
}

impl<'a> Copiers<'a> {
    /// As many as the system gives.
    fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Self
    where
        'a: 'scope,
    {
        let (finished, done) = mpsc::channel();
        let count = thread::available_parallelism().map_or(1, |cores| cores.get().min(COPIERS));
        let start = |_| {
            let (copies, to_copy) = mpsc::channel::<Copy>();
            let finished = finished.clone();
            let copy_all = move || to_copy.iter().for_each(|copy| copy.make(&finished));
            thread::Builder::new().name("load".into()).spawn_scoped(scope, copy_all).ok().map(|_| copies)
        };
        Self { threads: (0..count).map_while(start).collect(), next: 0, done, finished }
    }

    fn copy(&mut self, copy: Copy<'a>) {
        self.next += 1;
        match self.threads.get(self.next % self.threads.len().max(1)) {
            Some(thread) => _ = thread.send(copy),
            None => copy.make(&self.finished),
        }
    }
}

impl Copy<'_> {
    fn make(self, finished: &mpsc::Sender<Buffer>) {
        self.to.copy_from_slice(&self.buffer[self.range]);
        // Nobody waits for it where loading has failed.
        let _ = finished.send(self.buffer);
    }
}
