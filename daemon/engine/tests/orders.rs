//! Signed orders in the engine: used up by the release that they begin, by nothing else, and never backwards.

#![allow(clippy::unwrap_used, reason = "a test stops where its ground is missing, in its helpers too")]

use proptest::prelude::*;
use turnout_engine::advance::{Event, Refusal, Start, decide};
use turnout_engine::record::Kind;
use turnout_engine::trust::Order;
use turnout_engine::{Record, Stamp, TrustRecord, World};
use turnout_manifest::order::UsedOrder;
use turnout_manifest::{Channel, Plan, Sha256};

fn order(epoch: u64, counter: u64) -> Order {
    let digest = Sha256::of(&[u8::try_from(epoch * 16 + counter).unwrap()]);
    Order {
        channel: Channel::default(),
        order: UsedOrder { epoch, counter, digest },
        root: 1,
        checks: Vec::new(),
    }
}

fn start(model: &str, order: Option<Order>) -> Event {
    Event::Start(Box::new(Start {
        model: model.parse().unwrap(),
        kind: Kind::Release,
        version: "1".parse().unwrap(),
        digest: Sha256::of(b"1"),
        signed_by: Vec::new(),
        plan: Plan::all_at_once(),
        port: 8700,
        salt: 7,
        by: "root (pid 1)".to_owned(),
        order,
        audit_context: None,
    }))
}

/// Decides and applies, with what survives the journal.
fn take(world: &mut World, event: &Event) -> Result<Vec<Record>, Refusal> {
    let records = decide(world, event)?;
    for record in &records {
        let written = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<Record>(&written).unwrap(), record, "{written}");
        world.apply(record, Stamp { seq: 0, at_ms: 1 });
    }
    Ok(records)
}

#[test]
fn an_order_is_used_up_by_the_write_that_plans_its_release() {
    let mut world = World::default();
    let records = take(&mut world, &start("a", Some(order(1, 5)))).unwrap();
    assert!(matches!(records.as_slice(), [Record::Trust(TrustRecord::OrderUsed { .. }), Record::Planned(_)]));
    assert_eq!(world.trust.orders[&Channel::default()], order(1, 5).order);
    // The model is busy: a later order for it is refused, and stays good for another.
    assert!(matches!(take(&mut world, &start("a", Some(order(1, 6)))), Err(Refusal::Busy(_))));
    assert_eq!(world.trust.orders[&Channel::default()], order(1, 5).order);
    assert!(matches!(take(&mut world, &start("b", Some(order(1, 4)))), Err(Refusal::Order(_))));
    assert!(matches!(take(&mut world, &start("b", Some(order(0, 9)))), Err(Refusal::Order(_))));
    assert!(take(&mut world, &start("b", Some(order(1, 6)))).is_ok());
    assert!(take(&mut world, &start("c", None)).is_ok(), "whether one is needed is asked before");
}

proptest! {
    /// Whatever is brought in whatever order: what was used only grows, and a refusal changes nothing.
    #[test]
    fn used_orders_never_go_back(brought in prop::collection::vec((0u64..3, 0u64..8), 1..24)) {
        let mut world = World::default();
        for (index, (epoch, counter)) in brought.into_iter().enumerate() {
            let before = world.trust.clone();
            let last = before.orders.get(&Channel::default()).map(|used| (used.epoch, used.counter));
            match take(&mut world, &start(&format!("m{index}"), Some(order(epoch, counter)))) {
                Ok(_) => prop_assert!(last.is_none_or(|last| last <= (epoch, counter))),
                Err(_) => prop_assert_eq!(&world.trust, &before),
            }
        }
    }
}
