package dev.pocketvlm.android

import dev.pocketvlm.Image
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import java.io.File
import kotlin.math.abs

/** What Python wrote for these tests. */
internal fun cases(): File = File(checkNotNull(System.getProperty("cases")) { "-Dcases=FOLDER is missing" })

/** A line of `list.txt`: a picture's file and what Pillow reads in it, or refuses (no width). */
internal class Picture(line: String) {
    private val words = line.split(' ')
    val name: String = words[0]
    val file: File = cases().resolve("pictures/$name")
    val width: Int = words[1].toInt()
    val height: Int = words[2].toInt()
    val tolerance: Int = words[3].toInt()
    val isRefused: Boolean get() = width == 0
    val rgb: ByteArray get() = cases().resolve("pictures/$name.rgb").readBytes()
}

internal fun pictures(): List<Picture> = cases().resolve("pictures/list.txt").readLines().map(::Picture)

internal fun assertPixels(what: String, expected: ByteArray, image: Image, tolerance: Int = 0) {
    val found = bytesOf(image)
    assertEquals("$what: bytes", expected.size, found.size)
    val worst = expected.indices.maxOf { abs((expected[it].toInt() and 255) - (found[it].toInt() and 255)) }
    assertTrue("$what: a byte differs by $worst", worst <= tolerance)
}

internal fun bytesOf(image: Image): ByteArray = checkNotNull(image.pixels).pixels

/** Bytes of one pixel, as numbers. */
internal fun Image.at(x: Int, y: Int): List<Int> = List(3) { bytesOf(this)[(y * width + x) * 3 + it].toInt() and 255 }
