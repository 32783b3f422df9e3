//! The router's choice, on the card and in the processor's hands.

use kernels::cpu::{Gate, Routing};
use kernels::cuda::{Arena, RouteMail, SENT_TOKENS_MAX, route};
use kernels::reference;

use crate::card::{download, gpu, poisoned, upload};
use crate::common::{Draw, assert_close};

/// A choice among all experts alike, whose weights are taken as they are.
fn plain(experts: usize, used: usize, gate: Gate) -> Routing {
    Routing { experts, used, gate, groups: 1, groups_used: 1, group_best: 1, normalize: false, scale: 1.0 }
}

#[test]
fn choices_are_the_references_and_arrive_as_they_are() {
    let Some(gpu) = gpu() else { return };
    let mut arena = Arena::new(gpu, "mail", RouteMail::BYTES).unwrap();
    let mut mail = RouteMail::new(gpu, &mut arena).unwrap();
    for (routing, biased) in [
        (plain(1, 1, Gate::Softmax), false),
        (Routing { normalize: true, ..plain(128, 8, Gate::Softmax) }, false),
        (plain(60, 4, Gate::Softmax), false),
        (plain(32, 4, Gate::SoftmaxOfChosen), true),
        (Routing { normalize: true, scale: 2.5, ..plain(384, 8, Gate::Sigmoid) }, true),
        (Routing::GROUPED, true),
        (Routing { groups: 8, groups_used: 3, scale: 16.0, ..plain(160, 6, Gate::Softmax) }, false),
        (plain(512, 32, Gate::Sigmoid), false),
    ] {
        for tokens in [1, 3, SENT_TOKENS_MAX, 100] {
            let mut draw = Draw((routing.experts * tokens) as u64);
            let logits: Vec<f32> = draw.numbers(tokens * routing.experts).iter().map(|x| 4.0 * x).collect();
            let bias = biased.then(|| draw.numbers(routing.experts));
            let count = tokens * routing.used;
            let (mut chosen, mut weights) = (vec![0; count], vec![0.0; count]);
            reference::route(&routing, &logits, bias.as_deref(), &mut chosen, &mut weights);

            let on_card = bias.map(|bias| upload(gpu, &bias));
            let (mut found, mut found_weights) = (upload(gpu, &vec![u32::MAX; count]), poisoned(gpu, count));
            let sent = tokens <= SENT_TOKENS_MAX;
            route(
                gpu.compute(),
                &routing,
                upload(gpu, &logits).slice(),
                on_card.as_ref().map(|bias| bias.slice()),
                &mut found.slice_mut(),
                &mut found_weights.slice_mut(),
                sent.then_some(&mut mail),
            )
            .unwrap();
            let (found, found_weights) = (download(gpu, found.slice()), download(gpu, found_weights.slice()));
            assert_eq!(found, chosen, "{routing:?}, {tokens} tokens");
            assert_close("weights", &found_weights, &weights, |_| routing.scale, 3e-6);
            if sent {
                let (mut arrived, mut arrived_weights) = (vec![u32::MAX; count], vec![f32::NAN; count]);
                mail.receive(&mut arrived, &mut arrived_weights).unwrap();
                assert_eq!((arrived, arrived_weights), (found, found_weights), "{tokens} tokens' mail");
            }
        }
    }
}

#[test]
fn a_choice_that_nobody_took_is_given_up() {
    let Some(gpu) = gpu() else { return };
    let routing = plain(4, 1, Gate::Softmax);
    let mut arena = Arena::new(gpu, "mail", RouteMail::BYTES).unwrap();
    let mut mail = RouteMail::new(gpu, &mut arena).unwrap();
    let (mut chosen, mut weights) = (upload(gpu, &[u32::MAX]), poisoned(gpu, 1));
    let mut choose = |logits: [f32; 4], mail: &mut RouteMail| {
        let (to, weights) = (&mut chosen.slice_mut(), &mut weights.slice_mut());
        route(gpu.compute(), &routing, upload(gpu, &logits).slice(), None, to, weights, Some(mail)).unwrap();
    };
    let mut arrived = [u32::MAX];
    for given_up in 0..3 {
        (0..given_up).for_each(|_| choose([0.0, 1.0, 0.0, 0.0], &mut mail));
        mail.give_up().unwrap();
        choose([0.0, 0.0, 0.0, 1.0], &mut mail);
        mail.receive(&mut arrived, &mut [0.0]).unwrap();
        assert_eq!(arrived, [3], "after {given_up}");
    }
}

#[test]
fn of_equals_the_lower_comes_first_and_what_is_no_number_last() {
    let Some(gpu) = gpu() else { return };
    let routing = plain(40, 5, Gate::SoftmaxOfChosen);
    let mut logits = [1.0_f32; 40];
    (logits[0], logits[3], logits[37]) = (f32::NAN, 2.0, 2.0);
    let (mut chosen, mut weights) = (upload(gpu, &[u32::MAX; 5]), poisoned(gpu, 5));
    let (to, weights) = (&mut chosen.slice_mut(), &mut weights.slice_mut());
    route(gpu.compute(), &routing, upload(gpu, &logits).slice(), None, to, weights, None).unwrap();
    assert_eq!(download(gpu, chosen.slice()), [3, 37, 1, 2, 4]);
}
