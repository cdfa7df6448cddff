//! Random: each with a probability by weight.

use crate::support::spread::{Spread, counts, is_likely};

#[tokio::test]
async fn every_endpoint_gets_its_share_of_chances() {
    let spread = Spread::new(4, "strategy: Random").await;
    let pierhead = spread.serve().await;
    let counts = counts(pierhead.http, 2000, 4).await;
    assert!(counts.len() == 4 && counts.values().all(|count| is_likely(*count, 2000, 0.25)), "{counts:?}");
}
