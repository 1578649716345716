// A long-lived process around oref0's own modules, for oref0.py: one JSON object a line in, one a line out.
//
//   node oref0_bridge.js FOLDER          FOLDER/node_modules/oref0 was installed by npm
//   {"do": "hello"}                                                  -> {"oref0": "0.7.1", "node": "v20.1.0"}
//   {"do": "reset", "smb": true, "profiles": [{...}]}                -> {"patients": 1}
//   {"do": "decide", "minute": 5, "cgm": [120], "carbs": [0], "bolus": [0]} -> {"dose": [0.1], "cpu_seconds": 0.8}
//
// `dose`, U, is what the pump delivers in the coming five minutes: the person's bolus, the algorithm's micro-bolus and
// the temporary or the profile basal; `cpu_seconds` is of the process since its start. A `cgm` of null is no reading.
// What cannot be answered gives {"error": "..."}. The process ends when its input ends.
'use strict';

const path = require('path');
const readline = require('readline');

const STEP = 5; // min
const MINUTE = 60 * 1000;
const HOUR = 60 * MINUTE;
// Any past day: one of oref0's modules takes the wall clock for the end of the record that it is given.
const MIDNIGHT = Date.UTC(2020, 0, 1);
const MEAL_HOURS = 6; // meal/total.js looks back this far
const LONGEST_TEMP_HOURS = 2; // determine-basal.js sets none that is longer
const ENOUGH_GLUCOSE = 36; // bin/oref0-meal.js trusts no carbs on board with fewer readings

// oref0 has no business on the network here, and writes a page to stderr at every decision.
require('net').Socket.prototype.connect = () => {
  throw new Error('oref0 tried to open a network connection');
};
const complain = process.stderr.write.bind(process.stderr);
process.stderr.write = () => true;
console.error = () => {};

const folder = path.resolve(process.argv[2], 'node_modules', 'oref0');
const part = (name) => require(path.join(folder, 'lib', name));

// Ten thousands of calls a decision ask what is left of the same 0.05 U after so many minutes. The replies are oref0's
// own, remembered; a treatment keeps the list of those for its amount.
function remember(name) {
  const file = require.resolve(path.join(folder, 'lib', name));
  const original = require(file);
  const curves = new Map();
  let known = null;
  const listFor = (insulin, curve, dia, peak, profile) => {
    if (known === null || known.profile !== profile) {
      const key = [curve, dia, peak, profile.useCustomPeakTime, profile.insulinPeakTime].join();
      if (!curves.has(key)) curves.set(key, new Map());
      known = { profile, lists: curves.get(key) };
    }
    let list = known.lists.get(insulin);
    if (list === undefined) {
      if (known.lists.size > 1000) known.lists.clear();
      known.lists.set(insulin, (list = []));
    }
    return list;
  };
  require.cache[file].exports = (treatment, time, curve, dia, peak, profile) => {
    if (!treatment.insulin) return original(treatment, time, curve, dia, peak, profile);
    if (treatment.replies === undefined) {
      treatment.replies = listFor(treatment.insulin, curve, dia, peak, profile);
    }
    const ago = Math.round((time.getTime() - Math.trunc(treatment.date)) / 1000 / 60);
    if (treatment.replies[ago] === undefined) {
      treatment.replies[ago] = original(treatment, time, curve, dia, peak, profile);
    }
    return treatment.replies[ago];
  };
}

remember('iob/calculate');
const defaults = part('profile').defaults;
const insulinOnBoard = part('iob');
const mealData = part('meal');
const glucoseStatus = part('glucose-get-last');
const tempBasal = part('basal-set-temp');
const determineBasal = part('determine-basal/determine-basal');

class Patient {
  constructor(profile, smb) {
    this.profile = Object.assign(defaults(), profile);
    this.smb = smb;
    this.temp = null; // {rate: U/h, end: ms}
    this.glucose = []; // all three newest first, as oref0 reads them
    this.pump = [];
    this.carbs = [];
  }

  decide(now, cgm, carbs, bolus) {
    if (cgm !== null) this.glucose.unshift({ glucose: cgm, date: now, dateString: now });
    if (carbs > 0) this.carbs.unshift({ carbs, created_at: now });
    if (bolus > 0) this.pump.unshift({ _type: 'Bolus', amount: bolus, timestamp: now });
    this.forget(now);
    const micro = this.glucose.length ? this.enact(this.ask(now), now) : 0;
    return bolus + micro + (this.rate(now) * STEP) / 60;
  }

  ask(now) {
    const clock = new Date(now);
    const recent = now - (this.profile.dia + LONGEST_TEMP_HOURS) * HOUR;
    const iob = insulinOnBoard({
      clock: clock.toISOString(),
      history: this.pump.filter((record) => record.timestamp >= recent),
      profile: this.profile,
    });
    return determineBasal(
      glucoseStatus(this.glucose),
      this.running(now),
      iob,
      this.profile,
      undefined,
      this.meal(clock),
      tempBasal,
      this.smb,
      null,
      clock,
    );
  }

  meal(clock) {
    const meal = mealData({
      clock: clock.toISOString(),
      history: this.pump,
      carbs: this.carbs,
      glucose: this.glucose,
      profile: this.profile,
      basalprofile: this.profile.basalprofile,
    });
    if (this.glucose.length < ENOUGH_GLUCOSE) meal.mealCOB = 0;
    return meal;
  }

  running(now) {
    if (this.temp === null || this.temp.end <= now) return { rate: 0, duration: 0, temp: 'absolute' };
    return { rate: this.temp.rate, duration: (this.temp.end - now) / MINUTE, temp: 'absolute' };
  }

  enact(wanted, now) {
    if (wanted.error) throw new Error(wanted.error);
    if (wanted.rate !== undefined) {
      const { rate, duration } = wanted;
      this.temp = { rate, end: now + duration * MINUTE };
      this.pump.unshift({ eventType: 'Temp Basal', rate, duration, timestamp: now });
    }
    const micro = wanted.units || 0;
    if (micro > 0) this.pump.unshift({ _type: 'Bolus', amount: micro, timestamp: now });
    return micro;
  }

  rate(now) {
    return this.temp !== null && this.temp.end > now ? this.temp.rate : this.profile.current_basal;
  }

  forget(now) {
    const needed = now - (this.profile.dia + MEAL_HOURS + LONGEST_TEMP_HOURS) * HOUR;
    const eaten = now - MEAL_HOURS * HOUR;
    // COB needs the reading before the oldest meal, too.
    const read = eaten - HOUR;
    while (this.pump.length && this.pump[this.pump.length - 1].timestamp < needed) this.pump.pop();
    while (this.carbs.length && this.carbs[this.carbs.length - 1].created_at < eaten) this.carbs.pop();
    while (this.glucose.length > 1 && this.glucose[this.glucose.length - 1].date < read) this.glucose.pop();
  }
}

let patients = [];

const answers = {
  hello: () => ({ oref0: require(path.join(folder, 'package.json')).version, node: process.version }),
  reset: ({ profiles, smb }) => {
    patients = profiles.map((profile) => new Patient(profile, smb));
    return { patients: patients.length };
  },
  decide: ({ minute, cgm, carbs, bolus }) => {
    for (const [name, values] of Object.entries({ cgm, carbs, bolus })) {
      if (values.length !== patients.length) {
        throw new Error(`${name} has ${values.length} values for ${patients.length} patients`);
      }
    }
    const now = MIDNIGHT + minute * MINUTE;
    const dose = patients.map((patient, row) => patient.decide(now, cgm[row], carbs[row], bolus[row]));
    const { user, system } = process.cpuUsage();
    return { dose, cpu_seconds: (user + system) / 1e6 };
  },
};

process.on('uncaughtException', (error) => {
  complain(`${error.stack}\n`);
  process.exit(1);
});

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  let answer;
  try {
    const message = JSON.parse(line);
    if (!Object.hasOwn(answers, message.do)) throw new Error(`unknown message ${JSON.stringify(message.do)}`);
    answer = answers[message.do](message);
  } catch (error) {
    answer = { error: String(error.stack || error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
});
