package dev.pocketvlm.images

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.hexadecimal
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertThrows
import org.junit.Test
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

class TilesTest {
    @Test
    fun `tiles are Python's and Pillow's to the byte`() {
        val cases = Case(golden("tiles.json")).cases("cases")
        holdTo(cases, "grid", "tiles", "thumbnail_index", "sha256", "normalized_sha256", "parts") { case ->
            val preprocessing = preprocessingOf(case)
            val tiles = cutTiles(picture(case), preprocessing)
            val floats = ByteBuffer.allocate(4 * tiles.pixels.size).order(ByteOrder.LITTLE_ENDIAN)
            normalize(tiles, 0, tiles.count, preprocessing, floats.asFloatBuffer())
            val sides = { grid: Grid -> listOf(grid.across, grid.down) }
            val parts = tiles.seen.map(sides).takeIf { preprocessing.tiling.isInParts }
            val found = listOf(sides(tiles.grid), tiles.count, tiles.thumbnail, sha256(tiles.pixels), sha256(floats.array()))
            found + listOf(parts)
        }
    }

    @Test
    fun `a picture of no size or too large a size is refused`() {
        for ((width, height) in listOf(0 to 1, 1 to 0, 16385 to 1, 2 to 2)) {
            assertThrows(ImageUnusable::class.java) { flatten(ByteArray(4), width, height) }
        }
    }

    /** The golden file's description says how its pictures are drawn. */
    private fun picture(case: Case): Rgb {
        val width = case.int("width")
        val height = case.int("height")
        val rgba = ByteArray(4 * width * height)
        for (y in 0 until height) for (x in 0 until width) {
            val alpha = if (case.flag("transparent")) 13 * x + 7 * y else 255
            val pixel = listOf(37 * x + 11 * y + x * y / 7, 5 * x + 53 * y, x * x / 3 + 29 * y, alpha)
            for ((channel, value) in pixel.withIndex()) rgba[4 * (y * width + x) + channel] = value.toByte()
        }
        return flatten(rgba, width, height)
    }

    private fun sha256(bytes: ByteArray) = hexadecimal(MessageDigest.getInstance("SHA-256").digest(bytes))
}
