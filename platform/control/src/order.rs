//! Which of a host's reports are news. Each run of an agent counts its reports, so that late and repeated ones are told
//! from new ones, also across restarts of the agent.

use holm_model::report::HostReport;

/// What has been seen of one host's reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReportOrder {
    newest: (u64, u64),
}

impl ReportOrder {
    /// Whether `report` is at least as new as the newest one. The newest may come again: taking it twice does no harm,
    /// and makes good a first time that was not recorded.
    pub fn admits(&mut self, report: &HostReport) -> bool {
        let order = (report.run, report.number);
        let new = order >= self.newest;
        self.newest = self.newest.max(order);
        new
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
            // Of a run between two others nothing had come before it was over.
            (8, 4, false),
            (9, 2, true),
        ];
        for (run, number, admitted) in table {
            assert_eq!(order.admits(&report(run, number)), admitted, "run {run}, report {number}");
        }
    }
}
