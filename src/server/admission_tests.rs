use proptest::prelude::*;

use super::*;

/// Admits as many requests of a group as there are, and returns how many.
fn fill(admission: &mut Admission<&'static str>, group: &'static str) -> usize {
    let mut count = 0;
    while admission.ask(&group, Queueing::Bounded) == Asked::Admitted {
        count += 1;
    }
    count
}

#[test]
fn a_party_leaves_room_for_the_next_one() {
    let check = |admitted_max, expected: &[usize]| {
        let mut admission = Admission::new(admitted_max, 0);
        let groups = ["a", "b", "c", "d"];
        let found: Vec<_> = groups.iter().map(|group| fill(&mut admission, group)).collect();
        assert_eq!(found, expected, "of {admitted_max}");
    };
    check(512, &[342, 114, 38, 12]);
    check(12, &[8, 3, 1, 0]);
    // docs/configuration.md names these three.
    check(4, &[3, 1, 0, 0]);
    check(2, &[2, 0, 0, 0]);
    check(1, &[1, 0, 0, 0]);
    check(0, &[0, 0, 0, 0]);
}

#[test]
fn a_party_leaves_places_in_the_queue() {
    let mut admission = Admission::new(0, 12);
    let mut queue = |group| {
        let mut count = 0;
        while matches!(admission.ask(&group, Queueing::Bounded), Asked::Queued(_)) {
            count += 1;
        }
        count
    };
    assert_eq!([queue("a"), queue("b"), queue("c")], [8, 3, 1]);
    assert!(matches!(admission.ask(&"d", Queueing::Unbounded), Asked::Queued(_)));
    assert_eq!(admission.ask(&"d", Queueing::Bounded), Asked::Refused);
}

#[test]
fn waiting_parties_are_admitted_in_turn() {
    let mut admission = Admission::new(3, 100);
    let mut owners = HashMap::new();
    for group in ["a", "a", "a"] {
        let asked = admission.ask(&group, Queueing::Bounded);
        if let Asked::Queued(ticket) = asked {
            owners.insert(ticket, group);
        }
    }
    for group in ["a", "a", "b", "b", "c", "b"] {
        match admission.ask(&group, Queueing::Bounded) {
            Asked::Queued(ticket) => {
                owners.insert(ticket, group);
            }
            Asked::Admitted => assert_eq!(group, "b", "one was free for another group"),
            Asked::Refused => panic!("the queue has room"),
        }
    }
    let mut order = Vec::new();
    let mut held = VecDeque::from(["a", "a", "b"]);
    while let Some(group) = held.pop_front() {
        for ticket in admission.release(&group) {
            order.push(owners[&ticket]);
            held.push_back(owners[&ticket]);
        }
    }
    assert_eq!(order.concat(), "abcaba");
    assert!(admission.groups.is_empty() && admission.rota.is_empty());
}

#[test]
fn a_ticket_that_is_given_up_is_not_admitted() {
    let mut admission = Admission::new(1, 2);
    assert_eq!(admission.ask(&"a", Queueing::Bounded), Asked::Admitted);
    let Asked::Queued(first) = admission.ask(&"a", Queueing::Bounded) else { panic!() };
    let Asked::Queued(second) = admission.ask(&"b", Queueing::Bounded) else { panic!() };
    admission.give_up(&"a", first);
    assert_eq!(admission.release(&"a"), [second]);
    admission.give_up(&"b", second);
    assert_eq!(admission.admitted, 1, "it was admitted before it was given up");
    assert!(admission.release(&"b").is_empty());
    assert!(admission.groups.is_empty());
}

proptest! {
    /// The counts stay consistent, no request waits while its group's share is free, and all leave
    /// in the end.
    #[test]
    fn the_books_are_sound(
        admitted_max in 0usize..6,
        queued_max in 0usize..6,
        steps in prop::collection::vec((0u8..4, 0u8..4), 0..200),
    ) {
        let mut admission = Admission::new(admitted_max, queued_max);
        let mut waiting: Vec<(u8, Ticket)> = Vec::new();
        let mut held: Vec<u8> = Vec::new();
        let take = |tickets: Vec<Ticket>, waiting: &mut Vec<(u8, Ticket)>, held: &mut Vec<u8>| {
            for ticket in tickets {
                let at = waiting.iter().position(|(_, known)| *known == ticket).unwrap();
                held.push(waiting.remove(at).0);
            }
        };
        for (action, group) in steps {
            match action {
                0 | 1 => {
                    let queueing = [Queueing::Bounded, Queueing::Unbounded][usize::from(action)];
                    match admission.ask(&group, queueing) {
                        Asked::Admitted => held.push(group),
                        Asked::Queued(ticket) => waiting.push((group, ticket)),
                        Asked::Refused => {}
                    }
                }
                2 if !held.is_empty() => {
                    let group = held.remove(usize::from(group) % held.len());
                    take(admission.release(&group), &mut waiting, &mut held);
                }
                _ if !waiting.is_empty() => {
                    let (group, ticket) = waiting.remove(usize::from(group) % waiting.len());
                    admission.give_up(&group, ticket);
                }
                _ => {}
            }
            prop_assert!(held.len() <= admitted_max);
            prop_assert_eq!(admission.admitted, held.len());
            prop_assert!(admission.queued <= queued_max);
            let free = admitted_max - held.len();
            for (group, _) in &waiting {
                let own = held.iter().filter(|holder| *holder == group).count();
                prop_assert!(!is_within_share(own, free), "{} waits beside {} free", group, free);
            }
        }
        while let Some(group) = held.pop() {
            take(admission.release(&group), &mut waiting, &mut held);
        }
        prop_assert!(admitted_max == 0 || waiting.is_empty());
        prop_assert!(admitted_max == 0 || admission.groups.is_empty());
    }
}
