//! `LeastRequest`: of some that are drawn, the one with the fewest requests in flight.

use std::time::Duration;

use crate::support::{
    eventually,
    spread::{Client, Spread, counts, is_likely},
};

/// Longer than any test.
const FOREVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn endpoints_of_the_same_load_get_the_same_chances() {
    let spread = Spread::new(4, "strategy: LeastRequest").await;
    let pierhead = spread.serve().await;
    // One client: nothing is in flight when it asks, and two that are drawn are alike.
    let counts = counts(pierhead.http, 2000, 1).await;
    assert!(counts.len() == 4 && counts.values().all(|count| is_likely(*count, 2000, 0.25)), "{counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_hangs_holds_no_more_than_it_takes_to_see() {
    for choices in [2, 3] {
        let spread = Spread::new(3, &format!("strategy: LeastRequest, choices: {choices}")).await;
        let pierhead = spread.serve().await;
        spread.backends[0].set_delay(FOREVER);
        let address = pierhead.http;
        let load = tokio::spawn(counts(address, 600, 8));
        // It is chosen only while another that was drawn has no less in flight; of eight in flight it holds half at most,
        // and one that another still counts although its client has the answer.
        let others = async || {
            let answered: usize = spread.backends[1..].iter().map(|backend| backend.seen().len()).sum();
            (answered >= 500).then_some(())
        };
        eventually("the others answer", others).await;
        let held = spread.backends[0].seen().len();
        assert!(held <= 5, "{held} requests hang");
        spread.backends[0].set_delay(Duration::ZERO);
        let counts = load.await.unwrap();
        assert_eq!(counts.values().sum::<usize>(), 600);
    }
}

/// How many of 120 requests, one after the other, two of three endpoints hold that never answer.
async fn held_beside_two_that_hang(choices: usize) -> usize {
    let spread = Spread::new(3, &format!("strategy: LeastRequest, choices: {choices}")).await;
    let pierhead = spread.serve().await;
    for backend in &spread.backends[..2] {
        backend.set_delay(FOREVER);
    }
    let held = || spread.backends[..2].iter().map(|backend| backend.seen().len()).sum::<usize>();
    let mut client = Client::connect(pierhead.http).await;
    for _ in 0..120 {
        let before = held();
        let mut asking = tokio::spawn(async move {
            client.ask("/", None).await;
            client
        });
        let hangs = eventually("an answer or none", async || {
            if held() > before { Some(true) } else { asking.is_finished().then_some(false) }
        });
        client = if hangs.await { Client::connect(pierhead.http).await } else { (&mut asking).await.unwrap() };
    }
    held()
}

#[tokio::test]
async fn so_many_are_drawn_as_choices_says() {
    // All three are looked at: the one that answers has nothing in flight, or one that is still counted although its
    // client has the answer. The others hold one each, and one more for each such tie until they have two.
    let held = held_beside_two_that_hang(3).await;
    assert!(held <= 4, "{held}");
    // Two that hang are a third of the pairs: of 120 draws less than 11 are such with probability 10⁻⁹.
    let held = held_beside_two_that_hang(2).await;
    assert!(held > 10, "{held}");
}

#[tokio::test]
async fn a_slow_endpoint_gets_less_and_its_share_back() {
    let spread = Spread::new(3, "strategy: LeastRequest").await;
    let pierhead = spread.serve().await;
    spread.backends[0].set_delay(Duration::from_millis(200));
    let slow = counts(pierhead.http, 600, 12).await;
    let share = slow.get(&0).copied().unwrap_or_default();
    // With n in flight to each, it answers 5·n a second, the others as fast as they can: a half of its turn's share would
    // take them to need 40 ms for each answer.
    assert!(share < 100, "{slow:?}");
    spread.backends[0].set_delay(Duration::ZERO);
    let recovered = async || (counts(pierhead.http, 300, 4).await.get(&0)? > &60).then_some(());
    eventually("its share", recovered).await;
}
