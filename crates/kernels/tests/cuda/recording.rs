//! Kernels that are recorded and launched again.

use std::thread;
use std::time::Duration;

use kernels::cuda::{Crossing, CudaError, Pinned, add};

use crate::card::{download, gpu, poisoned, upload};
use crate::common::{Draw, bits};

#[test]
fn a_replay_computes_with_what_is_there_by_then() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(5);
    for count in [1, 33, 4097] {
        let mut sum = upload(gpu, &draw.numbers(count));
        let before = download(gpu, sum.slice());
        let mut x = upload(gpu, &draw.numbers(count));
        let record = || {
            add(gpu.compute(), &mut sum.slice_mut(), x.slice())?;
            add(gpu.compute(), &mut sum.slice_mut(), x.slice())
        };
        let (recording, ()) = gpu.recorder().unwrap().record::<_, CudaError>(record).unwrap();
        assert_eq!(bits(&download(gpu, sum.slice())), bits(&before), "recording does nothing");
        let mut expected = before;
        for _ in 0..3 {
            let next = draw.numbers(count);
            gpu.compute().upload_now(&next, &mut x.slice_mut()).unwrap();
            assert!(recording.replay().unwrap());
            for (sum, x) in expected.iter_mut().zip(&next) {
                *sum = *sum + x + x;
            }
            assert_eq!(bits(&download(gpu, sum.slice())), bits(&expected), "{count} numbers");
        }
    }
}

#[test]
fn a_recording_is_out_of_date_once_memory_was_given_back() {
    let Some(gpu) = gpu() else { return };
    let x = upload(gpu, &[1.0; 8]);
    let mut sum = upload(gpu, &[0.0; 8]);
    let (recording, ()) =
        gpu.recorder().unwrap().record(|| add(gpu.compute(), &mut sum.slice_mut(), x.slice())).unwrap();
    assert!(recording.replay().unwrap());
    drop(x);
    assert!(!recording.replay().unwrap());
    assert_eq!(download(gpu, sum.slice()), [1.0; 8]);
    let pinned = Pinned::<f32>::new(gpu, 8).unwrap();
    let (recording, ()) = gpu.recorder().unwrap().record(|| Ok::<_, CudaError>(())).unwrap();
    drop(pinned);
    assert!(!recording.replay().unwrap());
}

#[test]
fn what_touches_the_host_is_refused_and_leaves_the_stream_as_it_was() {
    let Some(gpu) = gpu() else { return };
    let stream = gpu.compute();
    let mut to = poisoned(gpu, 8);
    let mut crossing = Crossing::new(gpu, 8).unwrap();
    let refused = |doing: &mut dyn FnMut() -> Result<(), CudaError>| {
        let error = gpu.recorder().unwrap().record(doing).unwrap_err();
        assert!(matches!(error, CudaError::Recording { .. }), "{error}");
    };
    let (pinned, numbers) = (Pinned::new(gpu, 8).unwrap(), [2.0; 8]);
    refused(&mut || stream.upload(pinned.part(..), &mut to.slice_mut()));
    refused(&mut || stream.upload_now(&numbers, &mut to.slice_mut()));
    refused(&mut || stream.download_now(to.slice(), &mut [0.0; 8]));
    refused(&mut || crossing.leave(to.slice()));
    refused(&mut || crossing.arrive(&mut to.slice_mut()));
    stream.upload_now(&numbers, &mut to.slice_mut()).unwrap();
    assert_eq!(download(gpu, to.slice()), numbers);
}

#[test]
fn others_wait_for_their_card_until_a_recording_is_done() {
    let Some(gpu) = gpu() else { return };
    let x = upload(gpu, &[1.0; 8]);
    let mut sum = upload(gpu, &[0.0; 8]);
    let record = || {
        let other = thread::spawn(|| gpu.synchronize());
        thread::sleep(Duration::from_millis(20));
        assert!(!other.is_finished());
        assert!(gpu.recorder().is_none(), "one records at a time");
        add(gpu.compute(), &mut sum.slice_mut(), x.slice()).map(|()| other)
    };
    let (recording, other) = gpu.recorder().unwrap().record(record).unwrap();
    other.join().unwrap().unwrap();
    assert!(recording.replay().unwrap());
    assert_eq!(download(gpu, sum.slice()), [1.0; 8]);
}
