// pocketvlm-runner BUNDLE PLAN [--library FILE] [--verify full] [--engine NAME] [--cache DIR] [--try-limit S]: answers and times what a plan says, on the device.
// What it takes, prints and exits with is in docs/device-runs.md.
#include <sched.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "cases.h"
#include "machine.h"
#include "vision.h"

namespace pocketvlm {
namespace {

struct Arguments {
  std::string bundle, plan;
  ModelOptions options;
};

constexpr const char* kUsage =
    "usage: pocketvlm-runner BUNDLE PLAN [--library FILE] [--verify full] [--engine NAME] [--cache DIR] "
    "[--try-limit SECONDS]";

// Whether it is a known option with a value that it can have.
bool take_option(const std::string& name, const std::string& value, ModelOptions& options) {
  if (name == "--library") options.library = value;
  else if (name == "--engine") options.engine = value;
  else if (name == "--cache") options.cache = value;
  else if (name == "--verify" && value == "full") options.verify = true;
  else if (name == "--try-limit") options.try_limit_s = std::atof(value.c_str());
  else return false;
  return options.try_limit_s > 0 && options.try_limit_s <= 3600;
}

Arguments parse_arguments(int count, char** values) {
  Arguments arguments;
  std::vector<std::string> places;
  for (int i = 1; i < count; i++) {
    const std::string value = values[i];
    if (const std::string why = refusal_of_form(value); value.rfind("--", 0) == 0 && !why.empty())
      throw Error(Failure::usage, value + ": " + why);
    if (value.rfind("--", 0) != 0) {
      places.push_back(value);
    } else if (i + 1 >= count || !take_option(value, values[++i], arguments.options)) {
      places.clear();
      break;
    }
  }
  if (places.size() != 2) throw Error(Failure::usage, kUsage);
  arguments.bundle = places[0], arguments.plan = places[1];
  return arguments;
}

void keep_to(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(size_t(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) throw Error(Failure::misfit, "the system does not give these CPUs");
}

std::vector<uint8_t> read_tiles(const Plan& plan, const std::string& beside, const Manifest& manifest) {
  if (!plan.tiles) return {};
  const int64_t tile = manifest.vision->tile_size, bytes = plan.tiles->count * tile * tile * 3;
  const std::string content = read_file(beside + plan.tiles->file, bytes, Failure::misfit);
  if (int64_t(content.size()) != bytes)
    throw Error(Failure::misfit, plan.tiles->file + " has " + std::to_string(content.size()) + " bytes, " +
                                     std::to_string(plan.tiles->count) + " tiles have " + std::to_string(bytes));
  return {content.begin(), content.end()};
}

// The first steps' logits, float32, written beside the plan and there only when they are complete.
class LogitsFile {
 public:
  LogitsFile(std::string path, int64_t steps, int64_t vocabulary)
      : path_(std::move(path)), wanted_(steps > 0), left_(steps), bytes_(vocabulary * int64_t{sizeof(float)}) {
    if (wanted_) file_.open(path_ + ".partial", std::ios::binary | std::ios::trunc);
  }
  void add(const float* logits) {
    if (left_-- > 0) file_.write(reinterpret_cast<const char*>(logits), bytes_);
  }
  void finish() {
    if (!wanted_) return;
    file_.close();
    if (!file_ || std::rename((path_ + ".partial").c_str(), path_.c_str()) != 0)
      throw Error(Failure::other, one_line(path_, 200) + " cannot be written");
  }

 private:
  const std::string path_;
  const bool wanted_;
  int64_t left_;
  const int64_t bytes_;
  std::ofstream file_;
};

// The plan's answer: what it says, what each token took, and what memory the phases left. Whether it is as expected.
bool answer(Model& model, const Plan& plan, const std::vector<uint8_t>& tiles, const std::string& beside,
            Watch& watch) {
  print_event("begin", {{"name", "answer"}});
  const auto note = [](const char* phase) { print_event("memory", {{"memory", memory_after(phase)}}); };
  note("load");
  const Manifest& manifest = model.manifest();
  Floats encoded;
  double encode_s = 0;
  if (plan.tiles) {
    const double start = now();
    encoded =
        encode_tiles(model.engine(), tiles.data(), plan.tiles->count, manifest.vision->tile_batch, true, watch.stop());
    encode_s = now() - start;
    note("image");
  }
  Conversation conversation(model);
  conversation.add_prompt(plan.answer->token_ids, std::move(encoded));
  LogitsFile logits(beside + "logits.f32", plan.answer->logits, manifest.vocab_size);
  struct Over {
    Watch& watch;
    ~Over() { watch.watch_over(nullptr); }
  } over{watch};
  watch.watch_over(&conversation);
  conversation.prefill(plan.answer->sampling, plan.answer->max_new_tokens);
  note("prefill");
  TokenIds ids;
  std::vector<double> seconds;
  for (double start = now();; start = now()) {
    watch.check();
    const auto id = conversation.next();
    if (!id) break;
    seconds.push_back(now() - start + (ids.empty() ? conversation.stats().prefill_s : 0));
    ids.push_back(*id);
    logits.add(conversation.logits());
  }
  watch.check();
  logits.finish();
  note("decode");
  const auto& expected = plan.answer->expected;
  print_event("answer", {{"token_ids", ids},
                         {"seconds", seconds},
                         {"encode_s", encode_s},
                         {"matches", expected ? nlohmann::json(*expected == ids) : nlohmann::json()}});
  return !expected || *expected == ids;
}

void run_cases(Workbench& bench) {
  for (const Case& one : bench.plan.cases) {
    print_event("begin", {{"name", one.name}});
    const Timed timed = run_case(one, bench);
    print_event(
        "row",
        {{"row", {{"name", one.name}, {"phase", one.phase}, {"seconds", timed.seconds}, {"tokens", timed.tokens}}}});
    print_event("state", {{"seconds", bench.watch.seconds()},
                          {"resident", memory_after("state")["resident"]},
                          {"frequencies", frequencies()},
                          {"temperatures", temperatures()}});
  }
}

void print_start(const Library& library) {
  print_event("start", {{"runner", POCKETVLM_VERSION},
                        {"onnxruntime", library.version},
                        {"library", library.path},
                        {"machine", describe_machine()}});
}

void print_engine(const SelectedEngine& selected) {
  nlohmann::json skipped = nlohmann::json::array();
  for (const auto& [name, reason] : selected.skipped) skipped.push_back({{"engine", name}, {"reason", reason}});
  print_event("engine", {{"engine", selected.name}, {"skipped", skipped}});
}

int run(int count, char** values) {
  const Arguments arguments = parse_arguments(count, values);
  const Plan plan = parse_plan(read_file(arguments.plan, kMaxPlanBytes, Failure::usage));
  const size_t slash = arguments.plan.rfind('/');
  const std::string beside = slash == std::string::npos ? "" : arguments.plan.substr(0, slash + 1);
  keep_to(plan.cpus);
  ModelOptions options = arguments.options;
  options.threads = plan.threads;
  options.try_limit_s = std::min(options.try_limit_s, plan.time_limit_s);
  Watch watch(plan, plan.stop_file ? beside + *plan.stop_file : "");
  const Library& library = open_library(options.library);
  print_start(library);
  bool matches = true;
  try {
    auto model = std::make_unique<Model>(arguments.bundle, options);
    print_engine(model->selected());
    const Bundle bundle{arguments.bundle, model->manifest()};
    check_fits(plan, bundle.manifest);
    const std::vector<uint8_t> tiles = read_tiles(plan, beside, bundle.manifest);
    if (plan.answer) matches = answer(*model, plan, tiles, beside, watch);
    const std::string engine = model->selected().name;
    model.reset();
    Workbench bench{plan, bundle, library, engine, tiles, watch, nullptr, nullptr};
    run_cases(bench);
  } catch (const Error& error) {
    if (error.failure() != Failure::interrupted || watch.status() == 0) throw;
    print_event("end", {{"status", Watch::name(watch.status())}, {"load_after", load_average()}});
    return watch.status();
  }
  print_event("end", {{"status", "ok"}, {"load_after", load_average()}});
  return matches ? 0 : kMismatch;
}

int fail(Failure failure, const std::string& why) {
  const std::string line = one_line(why, 1000);  // names of a bundle may hold escape sequences
  print_event("error", {{"code", int(failure)}, {"message", line}});
  std::fprintf(stderr, "error: %s\n", line.c_str());
  return int(failure);
}

}  // namespace
}  // namespace pocketvlm

int main(int count, char** values) {
  using pocketvlm::Failure;
  try {
    return pocketvlm::run(count, values);
  } catch (const pocketvlm::Error& error) {
    return pocketvlm::fail(error.failure(), error.what());
  } catch (const std::bad_alloc&) {
    return pocketvlm::fail(Failure::other, "not enough memory");
  } catch (const std::exception& error) {
    return pocketvlm::fail(Failure::other, pocketvlm::one_line(error.what()));
  }
}
