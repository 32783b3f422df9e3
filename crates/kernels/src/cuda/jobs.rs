//! Lists of matrices on their way to the card: what each expert of a prompt is multiplied with.
//!
//! Owns the room through which lists pass. Must never know what the matrices are.

use plan::Bytes;

use super::launch::{Address, Shape, launch};
use super::matmul::{MatrixJob, matmul_jobs};
use super::{Arena, CudaError, DeviceBuffer, Gpu, JobList, Pinned, Quantized, Slice, SliceMut};

/// Words of an entry, as lists have them, and with what a list of one entry loses because lists begin at multiples of as many.
const WORDS: usize = size_of::<MatrixJob>() / size_of::<u32>();
const WORDS_MAX: usize = 2 * WORDS - 1;
/// Threads of a block that fetches 16 bytes each.
const THREADS: u32 = 256;

/// Room for the lists of some products, one after another, on the card and in pinned memory before it. All of them are put at the end of the
/// card's stream of [kernels](Gpu::compute), so that a list lies there until its product is done. A kernel fetches them: a copy would stand
/// behind whatever else is on the link, and weights that are brought come by megabytes.
#[derive(Debug)]
pub struct JobRoom {
    gpu: Gpu,
    words: Pinned<u32>,
    there: DeviceBuffer<u32>,
    /// Words that are taken since the room was empty.
    taken: usize,
}

impl JobRoom {
    /// Room for lists of `jobs` [entries](JobList::jobs) and `columns` columns together.
    ///
    /// # Errors
    /// [`CudaError::NotPinned`], or where the arena has too little.
    pub fn new(gpu: &Gpu, arena: &mut Arena, jobs: usize, columns: usize) -> Result<Self, CudaError> {
        let words = Self::words(jobs, columns);
        Ok(Self { gpu: gpu.clone(), words: Pinned::new(gpu, words)?, there: arena.take(words)?, taken: 0 })
    }

    /// What such room takes of an arena.
    #[must_use]
    pub const fn bytes(jobs: usize, columns: usize) -> Bytes {
        Arena::bytes_of::<u32>(Self::words(jobs, columns))
    }

    const fn words(jobs: usize, columns: usize) -> usize {
        WORDS_MAX * jobs + columns
    }

    /// Empties the room, once the stream has come to its end.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed before.
    pub fn empty(&mut self) -> Result<(), CudaError> {
        self.gpu.compute().synchronize()?;
        self.taken = 0;
        Ok(())
    }

    /// The products of a list of matrices, each with its columns, in one launch: output i of the list goes to `out[i·out_step..]`.
    ///
    /// # Errors
    /// Where a launch fails.
    ///
    /// # Panics
    /// Where the room has too little left, the type is not multiplied [in integers](super::in_integers), or lengths do not fit.
    pub fn multiply(
        &mut self,
        list: &JobList<'_>,
        columns: &Quantized,
        out: &mut SliceMut<'_, f32>,
        out_step: usize,
    ) -> Result<(), CudaError> {
        let (entries, sources) = (list.jobs().len(), list.outputs());
        let count = (WORDS * entries + sources).next_multiple_of(WORDS);
        let (first, end) = (self.taken, self.taken + count);
        assert!(end <= self.words.len(), "{entries} entries and {sources} columns in one room");
        self.taken = end;
        let to = &mut self.words[first..end];
        let (of_entries, of_sources) = to.split_at_mut(WORDS * entries);
        for (words, job) in of_entries.chunks_exact_mut(WORDS).zip(list.jobs()) {
            words.copy_from_slice(&job.words());
        }
        of_sources[..sources].copy_from_slice(list.columns());
        self.fetch(first, count)?;
        let there: Slice<'_, u32> = self.there.slice().range(first..end);
        let (jobs, rest) = (there.range(..WORDS * entries).cast(), there.range(WORDS * entries..));
        // SAFETY: they are fetched before it in the stream, their pinned sources and their places are written again only when the stream has
        // passed (`empty`), and the list borrows its matrices, whose owners wait for the device.
        unsafe { matmul_jobs(self.gpu.compute(), list, jobs, rest.range(..sources), columns, out, out_step) }
    }

    /// Has the card take `count` words from the `first` on.
    fn fetch(&mut self, first: usize, count: usize) -> Result<(), CudaError> {
        let (stream, pieces) = (self.gpu.compute(), (count / WORDS) as u32);
        if pieces == 0 {
            return Ok(());
        }
        let from = Address(self.words.as_raw() as u64 + (first * size_of::<u32>()) as u64);
        let mut there = self.there.slice_mut();
        let to = there.range(first..first + count).address();
        let (kernel, shape) = (stream.kernel("fetch")?, Shape::line(pieces.div_ceil(THREADS), THREADS));
        // SAFETY: both have as many words from there on, at multiples of 16 bytes; the pinned ones are not written until the stream has passed,
        // and their owner waits for the card before it gives them back.
        unsafe { launch!(stream, kernel, shape, from, to, pieces) }
    }
}
