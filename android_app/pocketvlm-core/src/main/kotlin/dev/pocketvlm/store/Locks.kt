package dev.pocketvlm.store

import kotlinx.coroutines.delay
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.channels.FileLock
import java.nio.channels.OverlappingFileLockException
import java.nio.file.Path
import java.nio.file.StandardOpenOption.CREATE
import java.nio.file.StandardOpenOption.WRITE
import java.util.concurrent.ConcurrentHashMap

private const val POLL_MILLIS = 200L

/** Of this process, by the file that stands for it between processes; as many as there are bundles. */
private val mutexes = ConcurrentHashMap<Path, Mutex>()

/**
 * Runs [block] while nobody else has the lock that the [file] stands for, in this process and in others. The file
 * stays: who waits for it may have it open. A process that dies loses its lock.
 */
internal suspend fun <T> locked(file: Path, block: suspend () -> T): T =
    mutexOf(file).withLock {
        FileChannel.open(file, CREATE, WRITE).use { channel ->
            while (tryLock(channel) == null) delay(POLL_MILLIS)
            block()
        }
    }

/** The same, if it can be had at once; null where somebody has it. */
internal fun <T : Any> ifUnlocked(file: Path, block: () -> T): T? {
    val mutex = mutexOf(file)
    if (!mutex.tryLock()) return null
    try {
        FileChannel.open(file, CREATE, WRITE).use { channel -> return if (tryLock(channel) == null) null else block() }
    } finally {
        mutex.unlock()
    }
}

private fun mutexOf(file: Path): Mutex {
    val key = file.toAbsolutePath().normalize()
    return mutexes[key] ?: Mutex().let { mutexes.putIfAbsent(key, it) ?: it }
}

private fun tryLock(channel: FileChannel): FileLock? = try {
    channel.tryLock()
} catch (_: OverlappingFileLockException) {
    null // another copy of this class, of another class loader
} catch (error: IOException) {
    throw IOException("the store's lock cannot be had", error)
}
