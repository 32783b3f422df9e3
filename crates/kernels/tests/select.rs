//! The choice of positions for sparse attention against its reference, bit by bit.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Draw, pools};
use kernels::cpu::{KvStore, SELECT_BLOCK, SELECT_DIM, SelectShape};
use kernels::{cpu, reference};
use plan::KvType;

/// Small whole numbers, so that every sum is exact and many are equal.
struct Case {
    q: Vec<f32>,
    weights: Vec<f32>,
    store: KvStore,
    keys: Vec<f32>,
}

impl Case {
    fn draw(shape: &SelectShape, kind: KvType, first: usize, m: usize, range: u64) -> Self {
        let mut draw = Draw((first * 31 + m * 7 + shape.dim) as u64);
        let mut whole = |count: usize, range: u64| -> Vec<f32> {
            (0..count).map(|_| (draw.bits() % (2 * range + 1)) as f32 - range as f32).collect()
        };
        let (q, weights) = (whole(m * shape.heads * shape.dim, range), whole(m * shape.heads, range));
        let mut keys = whole((first + m) * shape.dim, range);
        if kind == KvType::Q8_0 {
            // A block with this largest number keeps whole numbers as they are.
            keys.chunks_mut(shape.dim).flat_map(|row| row.chunks_mut(32)).for_each(|block| block[0] = 127.0);
        }
        let mut store = KvStore::try_new(kind, 1, shape.dim, first + m + 3).unwrap();
        for (position, key) in keys.chunks(shape.dim).enumerate() {
            store.write(position, key);
        }
        Self { q, weights, store, keys }
    }
}

#[test]
fn the_choice_is_that_of_the_reference() {
    use KvType::{F16, F32, Q8_0};
    let shape = |heads, dim, top_k| SelectShape { heads, dim, top_k };
    for (shape, kind, first, m, range) in [
        (shape(1, 1, 1), F32, 0, 1, 3),
        (shape(1, 1, 1), F32, 5, 3, 1),
        (shape(3, 33, 7), F32, 60, 9, 2),
        (shape(16, 64, 64), F32, 0, 150, 1),
        (shape(4, 40, 64), F16, 63, 2, 3),
        (shape(5, 17, 100), F16, 300, 21, 1),
        (shape(64, 128, 130), F16, 700, 1, 2),
        (shape(6, 96, 20), Q8_0, 190, 5, 3),
        (shape(2, SELECT_DIM, 3), F32, 9, 2, 1),
        // All equal: the lowest positions.
        (shape(2, 16, 70), F32, 128, 4, 0),
        // Nothing to choose from.
        (shape(2, 16, 200), F32, 100, 100, 2),
    ] {
        let case = Case::draw(&shape, kind, first, m, range);
        let end = first + m;
        // A word more than positions need, now and then.
        let words = end.div_ceil(64) + first % 2;
        let mut expected = vec![0; m * words];
        reference::select(&shape, &case.q, &case.weights, &case.keys, first, &mut expected);
        for (i, row) in expected.chunks(words).enumerate() {
            let count: usize = row.iter().map(|word| word.count_ones() as usize).sum();
            assert_eq!(count, shape.top_k.min(first + i + 1));
        }
        let row = end.next_multiple_of(SELECT_BLOCK);
        for (isa, pools) in pools() {
            for pool in &pools {
                for rows in [1, 3, 40] {
                    let mut scores = vec![f32::NAN; rows * row + 5];
                    let mut found = vec![u64::MAX; m * words];
                    cpu::select(pool, &shape, &case.q, &case.weights, &case.store, first, &mut scores, &mut found);
                    assert!(found == expected, "{isa}, {} threads, {shape:?}, {first} and {m}", pool.threads());
                }
            }
        }
    }
}

#[test]
fn a_token_chooses_alone_as_among_others() {
    // Any numbers: no two scores are equal, and rounding differs from that of the reference.
    let (first, m) = (140, 37);
    let shape = SelectShape { heads: 7, dim: 80, top_k: 50 };
    let mut draw = Draw(8);
    let (q, weights) = (draw.numbers(m * 7 * 80), draw.numbers(m * 7));
    let mut store = KvStore::try_new(KvType::F16, 1, 80, first + m).unwrap();
    (0..first + m).for_each(|position| store.write(position, &draw.numbers(80)));
    let words = (first + m).div_ceil(64);
    for (isa, pools) in pools() {
        let mut whole = vec![0; m * words];
        cpu::select(&pools[0], &shape, &q, &weights, &store, first, &mut vec![0.0; 192 * 16], &mut whole);
        for pool in &pools {
            for (i, row) in whole.chunks(words).enumerate() {
                let mut alone = vec![0; words];
                let (q, weights) = (&q[i * 7 * 80..][..7 * 80], &weights[i * 7..][..7]);
                cpu::select(pool, &shape, q, weights, &store, first + i, &mut [0.0; 192], &mut alone);
                assert_eq!(alone, row, "{isa}, token {i}");
            }
        }
    }
}

#[test]
fn what_is_no_number_is_taken_last() {
    let shape = SelectShape { heads: 1, dim: 4, top_k: 2 };
    let mut store = KvStore::try_new(KvType::F32, 1, 4, 4).unwrap();
    for (position, first) in [f32::NAN, 1.0, f32::NAN, 2.0].into_iter().enumerate() {
        store.write(position, &[first, 0.0, 0.0, 0.0]);
    }
    let mut selected = [0];
    let pool = &pools()[0].1[0];
    cpu::select(pool, &shape, &[1.0; 4], &[-1.0], &store, 3, &mut [0.0; 64], &mut selected);
    assert_eq!(selected, [0b1010]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let store = KvStore::try_new(KvType::F32, 1, 4, 100).unwrap();
    let refused = |shape: SelectShape, q: usize, room: usize, words: usize| {
        let run = || {
            let (q, weights) = (vec![0.0; q], vec![0.0; 2 * shape.heads]);
            let (mut scores, mut selected) = (vec![0.0; room], vec![0; words]);
            cpu::select(&pools()[0].1[0], &shape, &q, &weights, &store, 70, &mut scores, &mut selected);
        };
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    let fits = SelectShape { heads: 2, dim: 4, top_k: 3 };
    for (shape, q, room, words, refuses) in [
        (fits, 16, 128, 4, false),
        (fits, 15, 128, 4, true),
        (fits, 16, 127, 4, true),
        (fits, 16, 128, 3, true),
        (SelectShape { top_k: 0, ..fits }, 16, 128, 4, true),
        (SelectShape { dim: 5, ..fits }, 20, 128, 4, true),
        (SelectShape { heads: 0, ..fits }, 0, 128, 4, true),
    ] {
        assert_eq!(refused(shape, q, room, words), refuses, "{shape:?} {q} {room} {words}");
    }
}
