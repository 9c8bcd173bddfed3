//! Admission to a scarce resource, fair over groups. Pure.
//!
//! A group is admitted while it holds less than twice what is free. One group alone therefore gets
//! two thirds, rounded up: of three or more places, a second group always finds one free at once,
//! however many requests the first one has. The same rule shares the places in the queue.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Multiple of the free places that one group may hold.
const SHARE: usize = 2;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// Answer to a request for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Admitted at once.
    Admitted,
    /// Admitted later, by this ticket.
    Queued(Ticket),
    /// The queue has no room.
    Refused,
}

/// Kind of place that a request takes in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queueing {
    /// The request takes one of the places that are shared fairly.
    Bounded,
    /// The request always finds a place; something else bounds the number of such requests.
    Unbounded,
}

/// Record of the admitted and the waiting requests.
#[derive(Debug)]
pub(super) struct Admission<P> {
    admitted_max: usize,
    queued_max: usize,
    admitted: usize,
    /// Requests that take one of the bounded places.
    queued: usize,
    groups: HashMap<P, Group>,
    /// Groups with waiting requests; the front is the next to be admitted.
    rota: VecDeque<P>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Group {
    admitted: usize,
    /// Waiting requests that take one of the bounded places.
    queued: usize,
    waiting: VecDeque<(Ticket, Queueing)>,
}

impl<P: Clone + Eq + Hash> Admission<P> {
    /// Creates an empty record.
    pub(super) fn new(admitted_max: usize, queued_max: usize) -> Self {
        Self {
            admitted_max,
            queued_max,
            admitted: 0,
            queued: 0,
            groups: HashMap::new(),
            rota: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Asks for admission of one request.
    pub(super) fn ask(&mut self, group: &P, queueing: Queueing) -> Asked {
        let free = self.admitted_max - self.admitted;
        let places = self.queued_max - self.queued;
        let own = self.groups.entry(group.clone()).or_default();
        if own.waiting.is_empty() && is_within_share(own.admitted, free) {
            own.admitted += 1;
            self.admitted += 1;
            return Asked::Admitted;
        }
        match queueing {
            Queueing::Bounded if !is_within_share(own.queued, places) => {
                self.forget_if_unused(group);
                return Asked::Refused;
            }
            Queueing::Bounded => {
                own.queued += 1;
                self.queued += 1;
            }
            Queueing::Unbounded => {}
        }
        if own.waiting.is_empty() {
            self.rota.push_back(group.clone());
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        own.waiting.push_back((ticket, queueing));
        Asked::Queued(ticket)
    }

    /// Ends the admission of one request; returns the tickets that this admits.
    pub(super) fn release(&mut self, group: &P) -> Vec<Ticket> {
        if let Some(own) = self.groups.get_mut(group)
            && own.admitted > 0
        {
            own.admitted -= 1;
            self.admitted -= 1;
            self.forget_if_unused(group);
        }
        self.admit_waiting()
    }

    /// Takes a request out of the queue. Does nothing to a ticket that was admitted already.
    pub(super) fn give_up(&mut self, group: &P, ticket: Ticket) {
        let Some(own) = self.groups.get_mut(group) else { return };
        // Requests have the same time-out, so the one that gives up is usually at the front.
        let Some(at) = own.waiting.iter().position(|(waiting, _)| *waiting == ticket) else {
            return;
        };
        if let Some((_, Queueing::Bounded)) = own.waiting.remove(at) {
            own.queued -= 1;
            self.queued -= 1;
        }
        if own.waiting.is_empty() {
            self.rota.retain(|waiting| waiting != group);
        }
        self.forget_if_unused(group);
    }

    /// Admits one request of each group in turn, until a whole round admits none.
    fn admit_waiting(&mut self) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        let mut passed_over = 0;
        while passed_over < self.rota.len() {
            let Some(group) = self.rota.pop_front() else { break };
            let Some(own) = self.groups.get_mut(&group) else { continue };
            if is_within_share(own.admitted, self.admitted_max - self.admitted)
                && let Some((ticket, queueing)) = own.waiting.pop_front()
            {
                if queueing == Queueing::Bounded {
                    own.queued -= 1;
                    self.queued -= 1;
                }
                own.admitted += 1;
                self.admitted += 1;
                admitted.push(ticket);
                passed_over = 0;
            } else {
                passed_over += 1;
            }
            if !own.waiting.is_empty() {
                self.rota.push_back(group);
            }
        }
        admitted
    }

    fn forget_if_unused(&mut self, group: &P) {
        if self.groups.get(group).is_some_and(|own| own.admitted == 0 && own.waiting.is_empty()) {
            self.groups.remove(group);
        }
    }
}

fn is_within_share(held: usize, free: usize) -> bool {
    held < free.saturating_mul(SHARE)
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
