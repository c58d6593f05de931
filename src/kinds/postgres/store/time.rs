//! Instants as PostgreSQL counts them, in the text that it reads: days or microseconds since 2000-01-01, proleptic
//! Gregorian calendar, `infinity` at the ends of the range.

const DAY: i64 = 86_400_000_000;

/// A date from its days.
pub fn date(days: i64) -> String {
    match days {
        d if d == i64::from(i32::MAX) => "infinity".into(),
        d if d == i64::from(i32::MIN) => "-infinity".into(),
        _ => {
            let (date, era) = civil(days);
            date + era
        }
    }
}

/// A time of day from its microseconds.
pub fn time(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, micros.rem_euclid(1_000_000))
}

/// A timestamp, with or without time zone (the session's is UTC), from its microseconds.
pub fn timestamp(micros: i64) -> String {
    match micros {
        i64::MAX => "infinity".into(),
        i64::MIN => "-infinity".into(),
        _ => {
            let (date, era) = civil(micros.div_euclid(DAY));
            format!("{date} {}{era}", time(micros.rem_euclid(DAY)))
        }
    }
}

/// Year, month and day of a day number; years before 1 end in ` BC`. (Howard Hinnant's `civil_from_days`.)
fn civil(days: i64) -> (String, &'static str) {
    // Years begin in March here, so that the leap day is the last one; era = 400 years.
    let shifted = days + 730_425;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_the_calendars() {
        for (days, expected) in [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (59, "2000-02-29"),
            (60, "2000-03-01"),
            (9_587, "2026-04-01"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (-2_451_507, "4713-01-01 BC"),
            (i64::from(i32::MAX), "infinity"),
        ] {
            assert_eq!(date(days), expected);
        }
        assert_eq!(timestamp(-1), "1999-12-31 23:59:59.999999");
        assert_eq!(timestamp(i64::MIN), "-infinity");
        assert_eq!(time(DAY), "24:00:00.000000");
    }
}
