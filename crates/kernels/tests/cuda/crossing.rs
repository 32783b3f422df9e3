//! Numbers that cross to the processor and back.

use kernels::cuda::{Crossing, Gpu};

use crate::card::{download, gpu, poisoned, upload};
use crate::common::{Draw, bits};

#[test]
fn numbers_cross_in_turn_and_come_back_changed() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(3);
    for crossing in [Crossing::new(gpu, 7168).unwrap(), Crossing::new(gpu, 7168).unwrap().with_waiting_kernel()] {
        rounds(gpu, crossing, &mut draw);
    }
}

fn rounds(gpu: &Gpu, mut crossing: Crossing, draw: &mut Draw) {
    for count in [1, 7, 64, 1023, 4096, 7168, 5] {
        let x = draw.numbers(count);
        let from = upload(gpu, &x);
        let mut to = poisoned(gpu, count);
        // Everything is asked for before the processor has anything to say.
        crossing.leave(from.slice()).unwrap();
        crossing.arrive(&mut to.slice_mut()).unwrap();
        let twice: Vec<f32> = crossing.receive().unwrap().iter().map(|x| x + x).collect();
        crossing.room()[..count].copy_from_slice(&twice);
        crossing.send();
        let expected: Vec<f32> = x.iter().map(|x| x + x).collect();
        assert_eq!(bits(&download(gpu, to.slice())), bits(&expected), "{count} numbers");
        // Twice as much once more, added to what is there.
        crossing.leave(to.slice()).unwrap();
        crossing.arrive_and_add(&mut to.slice_mut()).unwrap();
        let same = crossing.receive().unwrap().to_vec();
        crossing.room()[..count].copy_from_slice(&same);
        crossing.send();
        let expected: Vec<f32> = x.iter().map(|x| 4.0 * x).collect();
        assert_eq!(bits(&download(gpu, to.slice())), bits(&expected), "{count} numbers added");
    }
}

#[test]
fn turns_that_are_given_up_are_no_part_of_the_next() {
    let Some(gpu) = gpu() else { return };
    let (mut crossing, from, mut to) = (Crossing::new(gpu, 4).unwrap(), upload(gpu, &[1.0, 2.0]), poisoned(gpu, 2));
    for left in [1, 2] {
        crossing.leave(from.slice()).unwrap();
        crossing.arrive(&mut to.slice_mut()).unwrap();
        if left == 2 {
            crossing.leave(from.slice()).unwrap();
        }
        crossing.give_up().unwrap();
        crossing.leave(from.slice()).unwrap();
        crossing.arrive(&mut to.slice_mut()).unwrap();
        assert_eq!(crossing.receive().unwrap(), [1.0, 2.0]);
        crossing.room()[..2].copy_from_slice(&[3.0, 4.0]);
        crossing.send();
        assert_eq!(download(gpu, to.slice()), [3.0, 4.0]);
    }
}

#[test]
fn a_round_is_asked_for_while_the_one_before_is_on_its_way() {
    let Some(gpu) = gpu() else { return };
    let mut crossing = Crossing::new(gpu, 100).unwrap();
    let mut on_card = upload(gpu, &[0.0; 100]);
    crossing.leave(on_card.slice()).unwrap();
    for turn in 0..1000 {
        crossing.arrive(&mut on_card.slice_mut()).unwrap();
        crossing.leave(on_card.slice()).unwrap();
        let next: Vec<f32> = crossing.receive().unwrap().iter().map(|x| x + 1.0).collect();
        assert_eq!(next, vec![turn as f32 + 1.0; 100]);
        crossing.room()[..100].copy_from_slice(&next);
        crossing.send();
    }
    assert_eq!(crossing.receive().unwrap(), vec![1000.0; 100]);
}

#[test]
fn a_stream_that_waits_for_nothing_more_is_let_go() {
    let Some(gpu) = gpu() else { return };
    let mut to = poisoned(gpu, 8);
    let mut crossing = Crossing::new(gpu, 8).unwrap();
    crossing.arrive(&mut to.slice_mut()).unwrap();
    drop(crossing);
    gpu.synchronize().unwrap();
}
