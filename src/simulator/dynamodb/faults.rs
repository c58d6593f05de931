//! What goes wrong: by rate, or by a script that names the call.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::chance::Chance;
use super::options::Rates;

/// A way in which a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Refused for throughput or rate.
    Throttle,
    /// Status 500, and not done.
    InternalError,
    /// Status 500, and done.
    InternalErrorDone,
    /// Not done, and no answer.
    LostRequest,
    /// Done, and no answer.
    LostAnswer,
    /// Another transaction touches the same item.
    TransactionConflict,
    /// A part of a batch is left over.
    Unprocessed,
    /// GetRecords gives no record although there are some.
    EmptyPage,
    /// A page ends early.
    ShortPage,
    /// The iterator is taken for one that has expired.
    ExpiredIterator,
    /// The place is taken for one that was trimmed.
    TrimmedData,
}

/// A fault for some calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The call (`PutItem`, `GetRecords`, …); every call without.
    #[serde(default)]
    pub operation: Option<String>,
    /// So many of them go well first.
    #[serde(default)]
    pub skip: u64,
    /// So many of them go wrong then.
    #[serde(default = "once")]
    pub times: u64,
    /// How.
    pub fault: Fault,
}

fn once() -> u64 {
    1
}

/// Rules in the order in which they were given; the first one for a call that is not used up decides.
#[derive(Clone, Debug, Default)]
pub struct Script {
    rules: VecDeque<Rule>,
}

impl Script {
    /// Adds rules.
    pub fn add(&mut self, rules: Vec<Rule>) {
        self.rules.extend(rules);
    }

    /// Forgets all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Rules that are not used up.
    pub fn left(&self) -> usize {
        self.rules.len()
    }

    /// What a rule says of this call.
    fn next(&mut self, operation: &str) -> Option<Fault> {
        let meant = |rule: &Rule| rule.operation.as_deref().is_none_or(|name| name == operation);
        let at = self.rules.iter().position(meant)?;
        let rule = self.rules.get_mut(at)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        let fault = rule.fault;
        rule.times = rule.times.saturating_sub(1);
        if rule.times == 0 {
            self.rules.remove(at);
        }
        Some(fault)
    }

    /// What goes wrong with this call, if anything.
    pub fn fault(&mut self, operation: &str, rates: &Rates, chance: &mut Chance) -> Option<Fault> {
        if let Some(fault) = self.next(operation) {
            return Some(fault);
        }
        let batch = matches!(operation, "BatchWriteItem" | "BatchGetItem");
        let transaction = matches!(operation, "TransactWriteItems" | "TransactGetItems");
        let records = operation == "GetRecords";
        let paged = matches!(operation, "GetRecords" | "Query" | "Scan");
        let half = if chance.below(2) == 0 { Fault::InternalError } else { Fault::InternalErrorDone };
        let rolls = [
            (true, rates.throttle, Fault::Throttle),
            (true, rates.internal_error, half),
            (true, rates.lost_request, Fault::LostRequest),
            (true, rates.lost_answer, Fault::LostAnswer),
            (transaction, rates.transaction_conflict, Fault::TransactionConflict),
            (batch, rates.unprocessed, Fault::Unprocessed),
            (records, rates.empty_page, Fault::EmptyPage),
            (paged, rates.short_page, Fault::ShortPage),
        ];
        rolls.into_iter().find(|(applies, rate, _)| *applies && chance.permille(*rate)).map(|(_, _, fault)| fault)
    }
}

/// What was used of a limit in the present second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    second: u64,
    used: u64,
}

impl Window {
    /// Takes so much, unless it is more than is left. One taker is let through whatever its size, or it never would be.
    pub fn take(&mut self, amount: u64, limit: u32, now: u64) -> bool {
        if limit == 0 {
            return true;
        }
        let second = now / 1000;
        if self.second != second {
            *self = Self { second, used: 0 };
        }
        if self.used > 0 && self.used + amount > u64::from(limit) {
            return false;
        }
        self.used += amount;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_lets_some_calls_pass_and_then_fails_some() {
        let mut script = Script::default();
        let rule = |fault| Rule { operation: Some("PutItem".into()), skip: 1, times: 2, fault };
        script.add(vec![rule(Fault::Throttle)]);
        let mut next = |operation: &str| script.fault(operation, &Rates::default(), &mut Chance::new(1));
        assert_eq!(next("GetItem"), None);
        assert_eq!(next("PutItem"), None);
        assert_eq!(next("PutItem"), Some(Fault::Throttle));
        assert_eq!(next("PutItem"), Some(Fault::Throttle));
        assert_eq!(next("PutItem"), None);
    }

    #[test]
    fn a_second_holds_so_much_and_the_next_one_is_new() {
        let mut window = Window::default();
        assert!(window.take(7, 5, 1000));
        assert!(!window.take(1, 5, 1999));
        assert!(window.take(5, 5, 2000));
        assert!(!window.take(1, 5, 2000));
    }
}
