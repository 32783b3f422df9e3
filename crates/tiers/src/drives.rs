//! A queue of reads for each drive that files of the model lie on.
//!
//! Owns which file lies on which drive ([`ByteSource::drive`]). A slow drive holds up none of the others' reads, and each is read in its own way: a model of
//! which one part lies on a file system without direct reads has only that part read by threads.

use std::sync::Arc;
use std::time::Duration;

use kernels::memory::{ByteSource, Depth, Landed, Method, Queue, QueueGone, Reading};
use plan::{Inventory, Reads};

/// What was read of one drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveCounts {
    /// The model's files there.
    pub files: Vec<String>,
    /// Bytes that were asked of it, loading included.
    pub bytes: u64,
    /// The most reads that were under way at once.
    pub depth: u64,
    /// Who reads.
    pub method: Method,
}

/// All queues.
pub(crate) struct Drives {
    all: Vec<Drive>,
    /// By file: its drive, and its number in that one's queue.
    places: Vec<(usize, usize)>,
    reads: Reads,
}

struct Drive {
    queue: Queue,
    /// By number in the queue: the file.
    files: Vec<usize>,
    names: Vec<String>,
    bytes: u64,
}

impl Drives {
    /// A queue for each drive that `sources` lie on, which is read so.
    pub(crate) fn open(inventory: &Inventory, sources: &[Arc<dyn ByteSource>], reads: Reads) -> Self {
        let (mut names, mut files): (Vec<u64>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
        let mut places = Vec::new();
        for (file, source) in sources.iter().enumerate() {
            let name = source.drive();
            let drive = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                files.push(Vec::new());
                names.len() - 1
            });
            places.push((drive, files[drive].len()));
            files[drive].push(file);
        }
        let open = |files: Vec<usize>| {
            let sources = files.iter().map(|file| Arc::clone(&sources[*file])).collect();
            let names = files.iter().map(|file| inventory.files[*file].path.clone()).collect();
            let queue = Queue::open(sources, Depth::of(reads), Method::Uring);
            Drive { queue, files, names, bytes: 0 }
        };
        Self { all: files.into_iter().map(open).collect(), places, reads }
    }

    /// Bytes that are under way at once on one drive.
    pub(crate) fn at_once(&self) -> u64 {
        u64::from(self.reads.at_once) * self.reads.bytes.0
    }

    /// How many drives there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The drive that a file lies on.
    pub(crate) fn of(&self, file: usize) -> usize {
        self.places[file].0
    }

    /// Whether a read of this drive begins at once.
    pub(crate) fn has_room(&self, drive: usize) -> bool {
        self.all[drive].queue.has_room()
    }

    /// Adds a read, whose source is a file of the model, to those of its drive.
    pub(crate) fn add(&mut self, reading: Reading) {
        let (drive, source) = self.places[reading.source];
        let drive = &mut self.all[drive];
        drive.bytes += reading.length as u64;
        drive.queue.add(Reading { source, ..reading });
    }

    /// Begins what was added.
    pub(crate) fn begin(&mut self) -> Result<(), QueueGone> {
        self.all.iter_mut().try_for_each(|drive| drive.queue.begin())
    }

    /// Takes what has come from any drive, without waiting.
    pub(crate) fn look(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        self.each(landed, |_, queue, landed| queue.look(landed))
    }

    /// Waits for this drive, or where nothing of it is under way for another, and takes what has come from any.
    pub(crate) fn step(&mut self, drive: usize, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        let under_way = |drive: &Drive| drive.queue.under_way() > 0;
        let other = || self.all.iter().position(under_way).unwrap_or(drive);
        let waited = if under_way(&self.all[drive]) { drive } else { other() };
        self.begin()?;
        self.each(
            landed,
            |number, queue, landed| if number == waited { queue.step(landed) } else { queue.look(landed) },
        )
    }

    fn each(
        &mut self,
        landed: &mut Vec<Landed>,
        mut hear: impl FnMut(usize, &mut Queue, &mut Vec<Landed>) -> Result<(), QueueGone>,
    ) -> Result<(), QueueGone> {
        for (number, drive) in self.all.iter_mut().enumerate() {
            let first = landed.len();
            hear(number, &mut drive.queue, landed)?;
            landed[first..].iter_mut().for_each(|landed| landed.source = drive.files[landed.source]);
        }
        Ok(())
    }

    /// Ranges of this drive that were added and have not landed.
    pub(crate) fn under_way_on(&self, drive: usize) -> usize {
        self.all[drive].queue.under_way()
    }

    /// Ranges of all drives that were added and have not landed.
    pub(crate) fn under_way(&self) -> usize {
        self.all.iter().map(|drive| drive.queue.under_way()).sum()
    }

    /// What was read of each drive.
    pub(crate) fn counts(&self) -> Vec<DriveCounts> {
        let counts = |drive: &Drive| DriveCounts {
            files: drive.names.clone(),
            bytes: drive.bytes,
            depth: drive.queue.deepest() as u64,
            method: drive.queue.method(),
        };
        self.all.iter().map(counts).collect()
    }

    /// The most reads that were under way at once, on all drives together at the most.
    pub(crate) fn deepest(&self) -> u64 {
        self.all.iter().map(|drive| drive.queue.deepest() as u64).sum()
    }

    /// How long the one that had most to do had something to read ([`Queue::busy`]).
    pub(crate) fn busy(&self) -> Duration {
        self.all.iter().map(|drive| drive.queue.busy()).max().unwrap_or_default()
    }

    /// What the system refused, in words.
    pub(crate) fn fallbacks(&self, inventory: &Inventory, sources: &[Arc<dyn ByteSource>]) -> Vec<String> {
        let buffered = inventory.files.iter().zip(sources).filter_map(|(file, source)| {
            let why = source.why_not_direct()?;
            Some(format!("{}: read through the page cache, since direct reads were refused ({why})", file.path))
        });
        let threads =
            self.refused().map(|why| format!("the disk is read by threads, since io_uring was refused ({why})"));
        buffered.chain(threads).collect()
    }

    /// What the kernel said where it refused `io_uring`.
    fn refused(&self) -> Option<&str> {
        self.all.iter().find_map(|drive| drive.queue.refused())
    }
}
