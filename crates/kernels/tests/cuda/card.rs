//! The card that tests share, and how numbers come to it and back.

use std::cell::RefCell;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use kernels::cuda::{Arena, CudaError, DeviceBuffer, Gpu, Plain, Quantized, Slice};
use plan::Bytes;

/// The first card, or `None` with a word on why: there is no driver, no card, or an old one.
pub(crate) fn gpu() -> Option<&'static Gpu> {
    static GPU: LazyLock<Result<Gpu, CudaError>> = LazyLock::new(|| Gpu::open(0, Bytes(4 << 30)));
    match &*GPU {
        Ok(gpu) => {
            take_turn();
            Some(gpu)
        }
        Err(
            error @ (CudaError::NoDriver { .. }
            | CudaError::NoDevice { .. }
            | CudaError::OldDriver { .. }
            | CudaError::OldDevice { .. }),
        ) => {
            println!("skipped: no GPU ({})", error.to_string().lines().next().unwrap_or_default());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Holds the card for the rest of the calling test's thread. Tests share a stream: where one lets it wait for the processor, another's
/// work would stand behind, and with it the driver's calls of both.
fn take_turn() {
    static CARD: Mutex<()> = Mutex::new(());
    thread_local! {
        static TURN: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
    }
    TURN.with(|turn| {
        turn.borrow_mut().get_or_insert_with(|| CARD.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// A copy of `numbers` on the card.
pub(crate) fn upload<T: Plain>(gpu: &Gpu, numbers: &[T]) -> DeviceBuffer<T> {
    let mut buffer = DeviceBuffer::new(gpu, "a test", numbers.len()).unwrap();
    gpu.compute().upload_now(numbers, &mut buffer.slice_mut()).unwrap();
    buffer
}

/// Room for `count` numbers, each NaN: what a kernel does not write is seen.
pub(crate) fn poisoned(gpu: &Gpu, count: usize) -> DeviceBuffer<f32> {
    upload(gpu, &vec![f32::NAN; count])
}

/// The numbers of a slice.
pub(crate) fn download<T: Plain + Default>(gpu: &Gpu, slice: Slice<'_, T>) -> Vec<T> {
    let mut numbers = vec![T::default(); slice.len()];
    gpu.compute().download_now(slice, &mut numbers).unwrap();
    numbers
}

/// Columns of `width` numbers, rounded to 8 bits on the card.
pub(crate) fn quantized(gpu: &Gpu, x: &[f32], width: usize) -> Quantized {
    let columns = x.len() / width;
    let mut arena = Arena::new(gpu, "a test", Quantized::bytes(width, columns)).unwrap();
    let mut quantized = Quantized::new(&mut arena, width, columns).unwrap();
    quantized.quantize(gpu.compute(), upload(gpu, x).slice(), width).unwrap();
    quantized
}

/// The numbers that such columns stand for.
pub(crate) fn numbers_of(gpu: &Gpu, columns: &Quantized) -> Vec<f32> {
    let (codes, scales) = (download(gpu, columns.codes()), download(gpu, columns.scales()));
    let stride = columns.stride();
    let column = |c: usize| (0..columns.width()).map(move |i| c * stride + i);
    let number = |at: usize| f32::from(codes[at]) * f32::from_bits(scales[at / 32] as u32);
    (0..columns.columns()).flat_map(column).map(number).collect()
}
