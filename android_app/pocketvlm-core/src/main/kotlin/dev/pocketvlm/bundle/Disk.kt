package dev.pocketvlm.bundle

import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.file.FileVisitResult
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.SimpleFileVisitor
import java.nio.file.StandardOpenOption.WRITE
import java.nio.file.attribute.BasicFileAttributes

/** Waits until the file's bytes are on the disk, so that no name can stand for fewer after a power cut. */
internal fun sync(file: Path): Unit = FileChannel.open(file, WRITE, NOFOLLOW_LINKS).use { it.force(true) }

/** Removes a file or directory with all that is in it; links are removed and not followed. */
internal fun deleteTree(root: Path) {
    if (!Files.exists(root, NOFOLLOW_LINKS)) return
    Files.walkFileTree(root, object : SimpleFileVisitor<Path>() {
        override fun visitFile(file: Path, attributes: BasicFileAttributes): FileVisitResult {
            Files.deleteIfExists(file)
            return FileVisitResult.CONTINUE
        }

        override fun visitFileFailed(file: Path, error: IOException) = FileVisitResult.CONTINUE

        override fun postVisitDirectory(directory: Path, error: IOException?): FileVisitResult {
            Files.deleteIfExists(directory)
            return FileVisitResult.CONTINUE
        }
    })
}
