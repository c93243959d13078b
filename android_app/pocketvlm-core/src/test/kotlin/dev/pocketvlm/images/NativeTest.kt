package dev.pocketvlm.images

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Preprocessing
import dev.pocketvlm.bundle.Tiling
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Pictures in their own resolution: where patches and tokens stand. */
class NativeTest {
    private val golden = Case(golden("native.json"))

    @Test
    fun `patches turn as Python's`() {
        for (case in golden.cases("rope")) {
            val found = axialRope(gridOf(case["grid"]), case.int("ratio"), case.int("head_dim"), case["theta"]?.let { case.double("theta") })
            assertArrayEquals("$case", floats(case, "cos"), found.first, 1e-7f)
            assertArrayEquals("$case", floats(case, "sin"), found.second, 1e-7f)
        }
        val (across, down) = listOf(Grid(2, 1), Grid(1, 2)).map { axialRope(it, 2, 8, 1e4).first }
        assertTrue("rows and columns are told apart", !across.contentEquals(down))
    }

    @Test
    fun `windows have Python's tiles`() {
        holdTo(golden.cases("windows"), "count", "tiles", "mask", "positions") { case ->
            val found = windowsOf(gridOf(case["grid"]), case.int("side"), case.int("ratio"))
            listOf(found.count, found.tiles.toList(), found.mask.toList(), found.positions.toList())
        }
        holdTo(golden.cases("most_windows"), "windows") { case -> listOf(mostWindows(case.int("tokens"), case.int("side"))) }
    }

    @Test
    fun `a table is laid over pictures to the bit`() {
        for (case in golden.cases("tables")) {
            val side = case.int("side")
            val table = FloatArray(side * side * case.int("width")) { i -> (37 * i + i / 7) % 101 / 8f - 6f }
            val found = interpolated(gridOf(case["grid"]), case.int("ratio"), table, side)
            assertArrayEquals("$case", floats(case, "values"), found, 0f)
        }
    }

    @Test
    fun `a table is resized to pictures as an image is`() {
        for (case in golden.cases("resized_tables")) {
            val side = case.int("side")
            val table = FloatArray(side * side * case.int("width")) { i -> (37 * i + i / 7) % 101 / 8f - 6f }
            val grid = gridOf(case["grid"])
            val found = antialiased(grid, case.int("ratio"), table, side)
            assertArrayEquals("$case", floats(case, "values"), found, 1e-6f)
            if (side > 1) assertTrue("$case", !found.contentEquals(interpolated(grid, case.int("ratio"), table, side)))
        }
    }

    @Test
    fun `a table an axis is laid over pictures to the bit`() {
        for (case in golden.cases("axis_tables")) {
            val side = case.int("side")
            val table = FloatArray(2 * side * case.int("width")) { i -> (37 * i + i / 7) % 101 / 8f - 6f }
            assertArrayEquals("$case", floats(case, "values"), byAxis(gridOf(case["grid"]), case.int("ratio"), table, side), 0f)
        }
    }

    @Test
    fun `patches take the entry of a table that they fall into`() {
        for (case in golden.cases("bucketed_tables")) {
            val side = case.int("side")
            val table = FloatArray(side * side * case.int("width")) { i -> (37 * i + i / 7) % 101 / 8f - 6f }
            val found = bucketed(gridOf(case["grid"]), case.int("ratio"), table, side)
            assertArrayEquals("$case", floats(case, "values"), found, 0f)
        }
    }

    @Test
    fun `a resampler's keys have Python's sines and cosines`() {
        for (case in golden.cases("key_rows")) {
            assertArrayEquals("$case", floats(case, "values"), sincosRows(gridOf(case["grid"]), case.int("width")), 1e-6f)
        }
    }

    @Test
    fun `tokens have Python's positions`() {
        holdTo(golden.cases("positions"), "positions") { case ->
            val found = positionsOf(case.ints("pictures").toIntArray(), case.list("grids").map(::gridOf))
            listOf(found.toList().chunked(AXES))
        }
        holdTo(golden.cases("axes"), "axes") { case ->
            listOf(axisOfPairs(case.ints("sections"), case.flag("interleaved")).toList())
        }
        assertEquals(listOf(7, 7, 7, 8, 8, 8), alongText(7, 2).toList())
    }

    @Test
    fun `a picture that is too narrow is refused in Python's words`() {
        val error = assertThrows(ImageUnusable::class.java) { planOf(Size(201, 1), SMART) }
        assertEquals("a picture of 201 x 1 pixels is too narrow: one side is at most 200 times the other", error.message)
        assertEquals(Grid(15, 1), planOf(Size(200, 1), SMART).grid)
    }

    @Test
    fun `bounds that no picture can keep are refused`() {
        assertNull(tilingProblem(SMART))
        val problem = { least: Long?, most: Long?, thumbnail: String ->
            tilingProblem(Tiling(28, "smart-resize", listOf(Grid(1, 1)), 0.1, thumbnail, true, null, least, most))
        }
        assertEquals("min_pixels and max_pixels: smart-resize needs both", problem(null, 9000, "none"))
        assertEquals("min_pixels: 9001 is not from 1 to max_pixels, 9000", problem(9001, 9000, "none"))
        assertEquals("max_pixels: 783 are less than a token's, 784", problem(1, 783, "none"))
        assertEquals("thumbnail: smart-resize has none", problem(1, 9000, "last"))
    }

    @Test
    fun `a most that is no whole tokens is refused in Python's words`() {
        val problem = { most: Long?, thumbnail: String ->
            tilingProblem(Tiling(28, "gemma4", listOf(Grid(1, 1)), 0.1, thumbnail, true, null, 784, most))
        }
        assertNull(problem(7840, "none"))
        assertEquals("max_pixels: 7841 are no whole tokens of 784", problem(7841, "none"))
        assertEquals("min_pixels and max_pixels: gemma4 needs both", problem(null, "none"))
        assertEquals("thumbnail: gemma4 has none", problem(7840, "first"))
    }

    @Test
    fun `parts that cannot be cut are refused in Python's words`() {
        assertNull(tilingProblem(PARTS))
        val problem = { part: Int?, thumbnail: String, ofSingle: Boolean, least: Long? ->
            tilingProblem(Tiling(28, "lfm2", listOf(Grid(2, 1)), 0.1, thumbnail, ofSingle, null, least, 78400, part))
        }
        for (part in listOf(null, 0, 65)) {
            assertEquals("part: lfm2 needs it, from 1 to 64", problem(part, "last", false, 784))
        }
        for ((thumbnail, ofSingle) in listOf("first" to false, "last" to true)) {
            assertEquals("thumbnail: lfm2 has it last, and none of a whole picture", problem(4, thumbnail, ofSingle, 784))
        }
        assertEquals("min_pixels and max_pixels: lfm2 needs both", problem(4, "last", false, null))
    }

    @Test
    fun `slices that cannot be cut are refused in Python's words`() {
        assertNull(tilingProblem(SLICES))
        val most = 448L * 448
        val problem = { thumbnail: String, ofSingle: Boolean, least: Long?, pixels: Long, part: Int?, grids: List<Grid> ->
            tilingProblem(Tiling(14, "minicpmv", grids, 0.1, thumbnail, ofSingle, null, least, pixels, part))
        }
        val grids = SLICES.candidates
        for ((thumbnail, ofSingle) in listOf("last" to false, "first" to true)) {
            val wanted = "thumbnail: minicpmv has it first, and none of a picture that is not cut"
            assertEquals(wanted, problem(thumbnail, ofSingle, most, most, null, grids))
        }
        val wanted = "min_pixels and max_pixels: minicpmv needs both"
        assertEquals(wanted, problem("first", false, null, most, null, grids))
        for ((least, pixels) in listOf(448L to most, 448L * 449 to 448L * 449)) {
            val line = "max_pixels: $pixels is no square of a side, or not min_pixels"
            assertEquals(line, problem("first", false, least, pixels, null, grids))
        }
        assertEquals("part: 4, and minicpmv has slices of any size", problem("first", false, most, most, 4, grids))
        for (other in listOf(grids.reversed(), grids.dropLast(1))) {
            val line = "candidates: minicpmv has all grids of its most slices, in its order"
            assertEquals(line, problem("first", false, most, most, null, other))
        }
    }

    @Test
    fun `a narrow picture whose whole is too large is refused`() {
        val tiling = Tiling(4096, "lfm2", listOf(Grid(2, 1)), 0.1, "last", false, null, 1, 33L shl 20, 1)
        val third = List(3) { 1.0 }
        val image = Rgb(16384, 82, ByteArray(16384 * 82 * 3))
        val preprocessing = Preprocessing(tiling, "bilinear", listOf(0, 0, 0), 1.0, third, third)
        val error = assertThrows(ImageUnusable::class.java) { cutTiles(image, preprocessing) }
        assertEquals("the image is too narrow for a crop of it", error.message)
    }

    @Test
    fun `a square of too many pixels is refused`() {
        val tiling = Tiling(45, "pad-square", listOf(Grid(1, 1)), 0.1, "none", false, null)
        val third = List(3) { 1.0 }
        val image = Rgb(16384, 1, ByteArray(16384 * 3))
        val preprocessing = Preprocessing(tiling, "bicubic", listOf(0, 0, 0), 1.0, third, third)
        val error = assertThrows(ImageUnusable::class.java) { cutTiles(image, preprocessing) }
        assertEquals("the image is too narrow for a square around it", error.message)
    }

    private fun floats(case: Case, key: String): FloatArray = case.doubles(key).map { it.toFloat() }.toFloatArray()

    private companion object {
        val PARTS = Tiling(28, "lfm2", listOf(Grid(2, 1)), 0.1, "last", false, null, 784, 784L * 100, 4)
        val SLICES = Tiling(
            14, "minicpmv", listOf(Grid(1, 1), Grid(1, 2), Grid(2, 1), Grid(1, 3), Grid(3, 1), Grid(1, 4), Grid(2, 2), Grid(4, 1)),
            0.1, "first", false, null, 448L * 448, 448L * 448,
        )
        val SMART = Tiling(28, "smart-resize", listOf(Grid(1, 1)), 0.1, "none", true, null, 784, 784L * 100)
    }
}
