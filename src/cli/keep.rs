//! The options that say what to keep.

use std::time::Duration;

use clap::{Args, ValueEnum};
use litesnap::config::parse_duration;
use litesnap::retention::Rules;

/// What to keep of each database; what any of these keeps is kept, and always its newest snapshot.
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// Remove snapshots that no --keep option keeps (replicate: once a day); a ready set: within 1h, hourly 24, daily 30,
    /// monthly 12, which the others change or add to
    #[arg(long, value_name = "SET", env = "LITESNAP_KEEP")]
    pub(crate) keep: Option<KeepSet>,

    /// The N newest snapshots
    #[arg(long, value_name = "N", env = "LITESNAP_KEEP_LAST")]
    pub(crate) keep_last: Option<u32>,

    /// All snapshots younger than this, such as 24h
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_KEEP_WITHIN")]
    pub(crate) keep_within: Option<Duration>,

    /// The newest snapshot of each of the N most recent hours that have one
    #[arg(long, value_name = "N", env = "LITESNAP_KEEP_HOURLY")]
    pub(crate) keep_hourly: Option<u32>,

    /// The same for days (UTC)
    #[arg(long, value_name = "N", env = "LITESNAP_KEEP_DAILY")]
    pub(crate) keep_daily: Option<u32>,

    /// The same for weeks, Monday to Sunday
    #[arg(long, value_name = "N", env = "LITESNAP_KEEP_WEEKLY")]
    pub(crate) keep_weekly: Option<u32>,

    /// The same for months
    #[arg(long, value_name = "N", env = "LITESNAP_KEEP_MONTHLY")]
    pub(crate) keep_monthly: Option<u32>,

    /// The same for years
    #[arg(long, value_name = "N", env = "LITESNAP_KEEP_YEARLY")]
    pub(crate) keep_yearly: Option<u32>,
}

/// A ready set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeepSet {
    /// What `Rules::standard` says.
    #[value(help = None)]
    Standard,
}

impl KeepArgs {
    pub(crate) fn rules(&self) -> Rules {
        let base = match self.keep {
            Some(KeepSet::Standard) => Rules::standard(),
            None => Rules::default(),
        };
        Rules {
            last: self.keep_last.unwrap_or(base.last),
            within: self.keep_within.or(base.within),
            hourly: self.keep_hourly.unwrap_or(base.hourly),
            daily: self.keep_daily.unwrap_or(base.daily),
            weekly: self.keep_weekly.unwrap_or(base.weekly),
            monthly: self.keep_monthly.unwrap_or(base.monthly),
            yearly: self.keep_yearly.unwrap_or(base.yearly),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Keep {
        #[command(flatten)]
        keep: KeepArgs,
    }

    #[test]
    fn a_set_is_changed_and_added_to_by_the_other_options() {
        for (args, rules) in [
            ("", "everything"),
            ("--keep standard", "within 1h, hourly 24, daily 30, monthly 12"),
            (
                "--keep standard --keep-hourly 48 --keep-yearly 3 --keep-within 2d",
                "within 2days, hourly 48, daily 30, monthly 12, yearly 3",
            ),
            ("--keep=standard --keep-monthly=0", "within 1h, hourly 24, daily 30"),
            ("--keep-last 2 --keep-weekly 4", "last 2, weekly 4"),
        ] {
            let keep = Keep::try_parse_from(std::iter::once("x").chain(args.split_whitespace())).unwrap().keep;
            assert_eq!(keep.rules().describe(), rules, "{args}");
        }
    }
}
