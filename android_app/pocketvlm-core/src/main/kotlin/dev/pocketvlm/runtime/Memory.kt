package dev.pocketvlm.runtime

import java.io.File
import java.io.IOException

/** The largest resident set of this process so far, bytes; 0 where the system does not say. */
internal fun peakMemory(): Long = kibibytes("/proc/self/status", "VmHWM:") ?: 0

/** What could be taken without swapping, bytes, or null where the system does not say. */
internal fun availableMemory(): Long? = kibibytes("/proc/meminfo", "MemAvailable:")

/** What the machine has, bytes, or null where the system does not say. */
internal fun physicalMemory(): Long? = kibibytes("/proc/meminfo", "MemTotal:")

private fun kibibytes(file: String, key: String): Long? = try {
    val line = File(file).useLines { lines -> lines.firstOrNull { it.startsWith(key) } }
    line?.removePrefix(key)?.trim()?.substringBefore(' ')?.toLongOrNull()?.times(1024)
} catch (error: IOException) {
    null
}
