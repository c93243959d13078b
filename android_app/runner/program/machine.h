// What the machine is and what it is doing: the keys and the meaning of bench/speed/machine.py and bench/speed/footprint.py.
#pragma once

#include <nlohmann/json.hpp>

namespace pocketvlm {

nlohmann::json describe_machine();
nlohmann::json frequencies();   // MHz of each core
nlohmann::json temperatures();  // zone -> degrees Celsius
double load_average();          // tasks that ran or waited over the last minute

// Memory of the bench's schema: bytes after a phase.
nlohmann::json memory_after(const std::string& phase);

}  // namespace pocketvlm
