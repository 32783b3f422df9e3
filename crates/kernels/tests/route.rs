//! The router of a mixture: against the reference, and by hand where order and ties matter.

mod common;

use common::{Draw, assert_close};
use kernels::cpu::{Gate, Routing, route};
use kernels::reference;

const PLAIN: Routing = Routing {
    experts: 8,
    used: 2,
    gate: Gate::Softmax,
    groups: 1,
    groups_used: 1,
    group_best: 1,
    normalize: false,
    scale: 1.0,
};

fn routed(routing: &Routing, logits: &[f32], bias: Option<&[f32]>) -> (Vec<u32>, Vec<f32>) {
    let places = logits.len() / routing.experts * routing.used;
    let (mut chosen, mut weights) = (vec![u32::MAX; places], vec![f32::NAN; places]);
    route(routing, logits, bias, &mut chosen, &mut weights);
    (chosen, weights)
}

#[test]
fn experts_and_weights_are_those_of_the_reference() {
    let groups =
        |experts, groups, groups_used, group_best| Routing { experts, groups, groups_used, group_best, ..PLAIN };
    let shapes = [
        PLAIN,
        Routing { experts: 128, used: 8, ..PLAIN },
        Routing { experts: 60, used: 60, ..PLAIN },
        Routing { used: 6, ..groups(160, 8, 3, 1) },
        Routing { used: 8, ..groups(256, 8, 4, 2) },
        Routing { used: 9, ..groups(12, 4, 3, 5) },
        Routing { experts: 1, used: 1, ..PLAIN },
    ];
    for shape in shapes {
        for gate in [Gate::Softmax, Gate::Sigmoid, Gate::SoftmaxOfChosen] {
            for (normalize, scale) in [(false, 1.0), (true, 2.5), (false, 16.0)] {
                let routing = Routing { gate, normalize, scale, ..shape };
                let mut draw = Draw(shape.experts as u64);
                let logits: Vec<f32> = draw.numbers(23 * shape.experts).iter().map(|x| x * 6.0).collect();
                let bias = draw.numbers(shape.experts);
                for bias in [None, Some(&bias[..])] {
                    let (chosen, weights) = routed(&routing, &logits, bias);
                    let (mut best, mut expected) = (vec![0; chosen.len()], vec![0.0; chosen.len()]);
                    reference::route(&routing, &logits, bias, &mut best, &mut expected);
                    assert_eq!(chosen, best, "{routing:?}");
                    assert_close(&format!("{routing:?}"), &weights, &expected, |_| scale, 1e-5);
                }
            }
        }
    }
}

#[test]
fn the_best_come_first_and_of_equals_the_lower_index() {
    let routing = Routing { used: 5, gate: Gate::Sigmoid, ..PLAIN };
    let logits = [1.0, 3.0, 1.0, 3.0, 0.0, 1.0, 3.0, 1.0];
    assert_eq!(routed(&routing, &logits, None).0, [1, 3, 6, 0, 2]);
    let grouped = Routing { groups: 4, groups_used: 2, used: 3, ..routing };
    // Groups 0, 1 and 3 have the same best score: the first two are in.
    assert_eq!(routed(&grouped, &logits, None).0, [1, 3, 0]);
    // By the sum of its two best, group 3 would beat them: 3 + 1 is in all three; a bias on its second decides.
    let bias = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.01];
    let two = Routing { group_best: 2, ..grouped };
    assert_eq!(routed(&two, &logits, Some(&bias)).0, [1, 6, 7]);
}

#[test]
fn a_bias_chooses_and_does_not_weigh() {
    let routing = Routing { gate: Gate::Sigmoid, ..PLAIN };
    let mut bias = [0.0; 8];
    bias[5] = 10.0;
    let (chosen, weights) = routed(&routing, &[0.0, 1.0, 2.0, 0.0, 0.0, -3.0, 0.0, 0.0], Some(&bias));
    assert_eq!(chosen, [5, 2]);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    assert_eq!(weights, [sigmoid(-3.0), sigmoid(2.0)]);
}

#[test]
fn what_is_no_number_is_passed_on() {
    for gate in [Gate::Softmax, Gate::Sigmoid, Gate::SoftmaxOfChosen] {
        for (groups, normalize) in [(1, false), (4, true)] {
            let routing = Routing { gate, groups, groups_used: groups, normalize, ..PLAIN };
            let (chosen, weights) = routed(&routing, &[f32::NAN; 8], None);
            assert_eq!(chosen, [0, 1], "{gate:?}");
            assert!(weights.iter().all(|weight| weight.is_nan()), "{gate:?} {weights:?}");
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let chosen = routed(&routing, &[0.0, 1.0, 2.0, odd, 0.5, odd, 0.0, 0.0], None).0;
                assert!(chosen[0] != chosen[1] && chosen.iter().all(|expert| *expert < 8), "{gate:?} {chosen:?}");
            }
        }
    }
    // Scores that all vanish are not divided by zero.
    let routing = Routing { gate: Gate::Sigmoid, normalize: true, ..PLAIN };
    assert_eq!(routed(&routing, &[-1e9; 8], None).1, [0.0, 0.0]);
}
