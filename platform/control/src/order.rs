//! Which of a host's reports are news. Each run of an agent counts its reports, so that late and repeated ones are told
//! from new ones, also across restarts of the agent.

use std::collections::VecDeque;

use holm_model::report::HostReport;

/// Earlier runs that are remembered.
const PAST: usize = 16;

/// What has been seen of one host's reports.
#[derive(Debug, Clone, Default)]
pub struct ReportOrder {
    run: u64,
    number: u64,
    past: VecDeque<u64>,
}

impl ReportOrder {
    /// Whether `report` is at least as new as the newest one. The newest may come again: taking it twice does no harm,
    /// and makes good a first time that was not recorded.
    pub fn admits(&mut self, report: &HostReport) -> bool {
        if report.run == self.run {
            let new = report.number >= self.number;
            self.number = self.number.max(report.number);
            return new;
        }
        if self.past.contains(&report.run) {
            return false;
        }
        self.past.push_back(std::mem::replace(&mut self.run, report.run));
        if self.past.len() > PAST {
            self.past.pop_front();
        }
        self.number = report.number;
        true
    }
}

#[cfg(test)]
mod tests {
    use holm_model::id::Seq;

    use super::*;

    #[test]
    fn late_reports_and_those_of_earlier_runs_are_not_news() {
        let report = |run, number| HostReport { run, number, generation: Seq(1), instances: Default::default() };
        let mut order = ReportOrder::default();
        let table = [
            (0, 0, true),
            (7, 3, true),
            (7, 2, false),
            (7, 3, true),
            (7, 5, true),
            (9, 1, true),
            (7, 6, false),
            (0, 9, false),
            (9, 1, true),
            (9, 0, false),
        ];
        for (run, number, admitted) in table {
            assert_eq!(order.admits(&report(run, number)), admitted, "run {run}, report {number}");
        }
    }
}
