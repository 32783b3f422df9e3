//! Lists of matrices on their way to the card: what each expert of a prompt is multiplied with.
//!
//! Owns the room through which lists pass. Must never know what the matrices are.

use plan::Bytes;

use super::matmul::{MatrixJob, matmul_jobs};
use super::{Arena, CudaError, DeviceBuffer, Gpu, JobList, Pinned, Quantized, SliceMut};

/// Room for the lists of some products, one after another, on the card and in pinned memory before it. All of them are put at the end of the
/// card's stream of [kernels](Gpu::compute), so that a list lies there until its product is done.
#[derive(Debug)]
pub struct JobRoom {
    gpu: Gpu,
    jobs: Pinned<MatrixJob>,
    columns: Pinned<u32>,
    jobs_there: DeviceBuffer<MatrixJob>,
    columns_there: DeviceBuffer<u32>,
    /// Entries and columns that are taken since the room was empty.
    taken: (usize, usize),
}

impl JobRoom {
    /// Room for lists of `jobs` [entries](JobList::jobs) and `columns` columns together.
    ///
    /// # Errors
    /// [`CudaError::NotPinned`], or where the arena has too little.
    pub fn new(gpu: &Gpu, arena: &mut Arena, jobs: usize, columns: usize) -> Result<Self, CudaError> {
        Ok(Self {
            gpu: gpu.clone(),
            jobs: Pinned::new(gpu, jobs)?,
            columns: Pinned::new(gpu, columns)?,
            jobs_there: arena.take(jobs)?,
            columns_there: arena.take(columns)?,
            taken: (0, 0),
        })
    }

    /// What such room takes of an arena.
    #[must_use]
    pub const fn bytes(jobs: usize, columns: usize) -> Bytes {
        Bytes(Arena::bytes_of::<MatrixJob>(jobs).0 + Arena::bytes_of::<u32>(columns).0)
    }

    /// Empties the room, once the stream has come to its end.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed before.
    pub fn empty(&mut self) -> Result<(), CudaError> {
        self.gpu.compute().synchronize()?;
        self.taken = (0, 0);
        Ok(())
    }

    /// The products of a list of matrices, each with its columns, in one launch: output i of the list goes to `out[i·out_step..]`.
    ///
    /// # Errors
    /// Where the launch or a copy fails.
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
        let (first, end) = (self.taken, (self.taken.0 + list.jobs().len(), self.taken.1 + list.outputs()));
        assert!(end.0 <= self.jobs.len() && end.1 <= self.columns.len(), "{end:?} entries and columns in one room");
        let (jobs, sources) = (first.0..end.0, first.1..end.1);
        self.taken = end;
        self.jobs[jobs.clone()].copy_from_slice(list.jobs());
        self.columns[sources.clone()].copy_from_slice(list.columns());
        let stream = self.gpu.compute();
        stream.upload(self.jobs.part(jobs.clone()), &mut self.jobs_there.slice_mut().range(jobs.clone()))?;
        stream
            .upload(self.columns.part(sources.clone()), &mut self.columns_there.slice_mut().range(sources.clone()))?;
        let (jobs, sources) = (self.jobs_there.slice().range(jobs), self.columns_there.slice().range(sources));
        // SAFETY: the copies are before it in the stream, their pinned sources and their places are written again only when the stream has
        // passed (`empty`), and the list borrows its matrices, whose owners wait for the device.
        unsafe { matmul_jobs(stream, list, jobs, sources, columns, out, out_step) }
    }
}
