//! Subsets: a replica uses so many endpoints of a large backend.

use std::collections::BTreeSet;

use crate::support::{
    client::get,
    eventually,
    pierhead::Pierhead,
    spread::{Spread, counts},
};

async fn used(pierhead: &Pierhead) -> BTreeSet<usize> {
    counts(pierhead.http, 60, 2).await.into_keys().collect()
}

#[tokio::test]
async fn a_replica_uses_a_subset_and_stays_with_it() {
    let spread = Spread::new(8, "subset: {size: 3}").await;
    let start = async |name: &str| spread.setup().flag(format!("--identity={name}")).start().await;
    let one = start("one").await;
    let first = used(&one).await;
    assert_eq!(first.len(), 3);
    assert_eq!(used(&start("one").await).await, first, "the same name, the same subset");
    // An endpoint that is not in it goes: nothing changes. One that is goes: the two others stay.
    let outside = (0..8).find(|number| !first.contains(number)).unwrap();
    one.write(spread.manifests((0..8).filter(|number| *number != outside)));
    let gone = *first.first().unwrap();
    let known = async || {
        let backends = get(one.admin, "admin", "/debug/backends").await.json();
        let address = serde_json::Value::from(spread.backends[outside].address.to_string());
        (!backends[0]["settings"].to_string().contains(&address.to_string())).then_some(())
    };
    eventually("the snapshot without it", known).await;
    assert_eq!(used(&one).await, first);
    one.write(spread.manifests((0..8).filter(|number| *number != gone)));
    let others =
        eventually("a subset without it", async || Some(used(&one).await).filter(|used| !used.contains(&gone))).await;
    assert_eq!(others.len(), 3);
    assert!(
        first.iter().filter(|number| **number != gone).all(|number| others.contains(number)),
        "{first:?} {others:?}"
    );
}

#[tokio::test]
async fn replicas_together_use_every_endpoint() {
    let spread = Spread::new(4, "subset: {size: 2}").await;
    let mut together = BTreeSet::new();
    // A subset of two of four misses one with probability 1/2: 40 replicas do so in 4 of 10¹² runs.
    for name in 0..40 {
        let replica = spread.setup().flag(format!("--identity={name}")).start().await;
        together.extend(used(&replica).await);
        if together.len() == 4 {
            return;
        }
    }
    panic!("only {together:?} are used");
}
